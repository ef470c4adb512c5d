"""Telling what a file holds without running anything in it."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from opau_onnx.errors import LoadError

# fmt: off
_SIZE_FUNCTIONS = frozenset({
    "Add", "And", "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "CeilToInt", "CleanDiv", "Equality", "Float",
    "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt", "GreaterThan", "Identity", "Integer", "IntTrueDiv",
    "IsNonOverlappingAndDenseIndicator", "LessThan", "LShift", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne",
    "Not", "One", "NegativeOne", "Or", "Piecewise", "Pow", "PowByNatural", "PythonMod", "Rational", "RoundDecimal",
    "RoundToInt", "RShift", "StrictGreaterThan", "StrictLessThan", "Symbol", "ToFloat", "TruncToFloat", "TruncToInt",
    "Unequality", "Where", "Zero", "Half", "Infinity", "NegativeInfinity", "int_oo", "oo", "true", "false",
})
# fmt: on
_SIZE_NODES = (
    ast.Expression,
    ast.Call,
    ast.Name,
    ast.Constant,
    ast.keyword,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.Load,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Tuple,
)  # fmt: skip


def kind(path: Path) -> str:
    """One of "safetensors", "pt2", "torchscript", "torch" (a zip of torch.save), "pickle" (anything else).

    Raises:
        LoadError: no such file, or an empty one.
    """
    if not path.is_file():
        raise LoadError(f"{path} does not exist or is not a file; expected a model file (.pt, .pth, .pt2, .safetensors)")
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty")
    if path.suffix == ".safetensors":
        return "safetensors"
    if not zipfile.is_zipfile(path):
        return "pickle"
    with zipfile.ZipFile(path) as archive:
        inner = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return "pt2"
    return "torchscript" if "constants.pkl" in inner else "torch"


def load_plain(path: Path) -> Any:
    """``torch.load(weights_only=True)``: tensors and plain data; anything else is refused and nothing of it is run.

    Raises:
        LoadError: saying what was refused and what to do.
    """
    import pickle

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadError(
            f"{path} was refused: it holds more than tensors and plain data, and unpickling it could run code "
            f"({_reason(error)}). Save the state_dict and pass --model package.module:factory; or, only if you trust "
            "the file, pass --allow-pickle."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise LoadError(f"{path} cannot be read as a PyTorch file: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    found = re.search(r"(GLOBAL|Unsupported \w+|Can only \w+|Trying to \w+)[^.]*\.?[^. ]*", text)
    return (found.group(0) if found else text)[:200].strip() or type(error).__name__


def check_program(path: Path) -> None:
    """Refuse an exported program that could run code when torch.export.load reads it.

    torch unpickles some members of a .pt2 without protection, loads compiled libraries, and evaluates symbolic
    expressions, so every member is looked at first.

    Raises:
        LoadError: naming the member.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if "aotinductor" in name or name.endswith((".so", ".dll", ".dylib")):
                raise _refused(path, name, "it is compiled code")
            if content[:1] == b"\x80" or content[:4] == b"PK\x03\x04":
                _check_member(path, name, content)
            elif "custom_obj" in name or "opaque_obj" in name:
                raise _refused(path, name, "it is a pickled object")
            elif name.endswith(".json"):
                _check_expressions(path, name, content)


def _check_member(path: Path, name: str, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refused(path, name, f"unpickling it could run code ({_reason(error)})") from None


def _check_expressions(path: Path, name: str, content: bytes) -> None:
    try:
        tree = json.loads(content)
    except ValueError:
        raise LoadError(f"{path} is damaged: {name} in it is not JSON") from None
    for text in _expressions(tree):
        if not is_size(text):
            raise _refused(path, name, f"it holds the expression {text[:60]!r}, which is no size")


def is_size(text: str) -> bool:
    """Whether a text is a symbolic size as torch writes them, e.g. "Mul(Integer(2), Symbol('s31', integer=True))".

    torch hands such texts to sympy, which evaluates them as Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
    return all(isinstance(n, _SIZE_NODES) and _is_plain(n, called) for n in nodes)


def _is_plain(node: ast.AST, called: set[int]) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Name):
        return node.id in _SIZE_FUNCTIONS or (id(node) not in called and bool(re.fullmatch(r"[a-z]{1,3}\d*", node.id)))
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, (str, bytes)) or bool(re.fullmatch(r"[A-Za-z]\w*", str(node.value)))
    return True


def _expressions(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("expr_str", "as_expr", "guards_code") and isinstance(value, str):
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _expressions(value)


def _refused(path: Path, name: str, why: str) -> LoadError:
    return LoadError(f"{path} was refused: of its member {name}, {why}. Only if you trust the file, pass --allow-pickle.")
