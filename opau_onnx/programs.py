"""Looking at an exported program (.pt2) before torch.export.load reads it, since that can run code of the file's.

It unpickles some members without protection, loads compiled libraries, hands symbolic sizes to sympy (which evaluates them
as Python), executes guards, and resolves the names of called functions to any attribute below ``torch``.
"""

from __future__ import annotations

import ast
import io
import json
import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from opau_onnx.errors import LoadError
from opau_onnx.pickles import reason

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


_GUARD_NODES = (*_SIZE_NODES, ast.BoolOp, ast.boolop, ast.Subscript, ast.Attribute)
_GUARD_FUNCTIONS = frozenset({"max", "min", "abs", "int", "float"})
_GUARD_ATTRIBUTES = frozenset({"size", "stride", "storage_offset", "dim", "ndim", "shape", "numel"})
_CALLED = re.compile(
    r"torch\.ops\.(?!\w*__)\w+\.(?!\w*__)\w+(\.(?!\w*__)\w+)?|torch\.(_?sym_[a-z]+)|math\.[a-z0-9]+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|[lr]shift)"
)
"""What a program may call: registered operators and arithmetic of sizes."""
_TARGETS = ("torch", "_operator", "math", "#")
"""How a name begins that torch would resolve to something it calls."""


def check_program(path: Path) -> None:
    """Refuse an exported program that could run code when torch reads or runs it.

    Raises:
        LoadError: naming the member.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        folded = [name.lower() for name in names]
        if len(set(folded)) != len(folded):
            raise LoadError(f"{path} was refused: two of its members have the same name")
        if any(name.endswith("serialized_exported_program.json") for name in folded):
            raise LoadError(f"{path} has the format of torch 2.7 and older; export it again with a newer torch")
        flagged: set[str] = set()
        for name in names:
            flagged |= _check(path, name, archive.read(name))
        for name in flagged - set(names):
            raise _refused(path, name, "it is to be unpickled but is not there")
        for name in sorted(flagged):
            _check_pickle(path, name, archive.read(name))


def _check(path: Path, name: str, content: bytes) -> set[str]:
    """Check one member; returns the members that it says are pickled."""
    kind = name.lower()
    if "aotinductor" in kind or kind.endswith((".so", ".dll", ".dylib")):
        raise _refused(path, name, "it is compiled code")
    if "custom_obj" in kind or "opaque_obj" in kind:
        raise _refused(path, name, "it is a pickled object")
    if kind.endswith(".json"):
        return _check_json(path, name, content)
    # A weight may begin with any bytes; unpickling is asked for by a flag or by the name ending in .pt.
    if kind.endswith(".pt"):
        _check_pickle(path, name, content)
    return set()


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refused(path, name, f"unpickling it could run code ({reason(error)})") from None


def _check_json(path: Path, name: str, content: bytes) -> set[str]:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        raise LoadError(f"{path} is damaged: {name} in it is not JSON") from None
    flagged = set()
    for key, text in _texts(tree):
        if key in ("expr_str", "as_expr") and not is_size(text):
            raise _refused(path, name, f"it holds the expression {text[:60]!r}, which is no size")
        if key == "guards_code" and not is_guard(text):
            raise _refused(path, name, f"it holds the guard {text[:60]!r}, which is no condition on sizes")
        if key in ("target", "as_operator") and text.startswith(_TARGETS) and not _CALLED.fullmatch(text):
            raise _refused(path, name, f"it calls {text[:60]!r}, which is no operator")
    for entry in _entries(tree):
        target = str(entry.get("path_name"))
        if any(kind in target.lower() for kind in ("custom_obj", "opaque_obj")):
            raise _refused(path, name, f"it names {target[:60]!r}, a pickled object")
        if entry.get("use_pickle"):
            flagged.add(posixpath.join(posixpath.dirname(name), target))
    return flagged


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the key that it, or the list it stands in, has."""
    if isinstance(tree, dict):
        for inner, value in tree.items():
            yield from _texts(value, inner)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value, key)
    elif isinstance(tree, str):
        yield key, tree


def _entries(tree: Any) -> Iterator[dict[str, Any]]:
    """The descriptions of members in a weights or constants configuration."""
    if isinstance(tree, dict):
        if "path_name" in tree:
            yield tree
        for value in tree.values():
            yield from _entries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)


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


def is_guard(text: str) -> bool:
    """Whether a text is a condition on sizes as torch writes them, e.g. "L['x'].size()[0] >= 2"; torch executes these."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    methods = {id(n.func) for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    keys = {id(n.slice) for n in nodes if isinstance(n, ast.Subscript)}
    return all(isinstance(n, _GUARD_NODES) and _is_plain_guard(n, methods, keys) for n in nodes)


def _is_plain_guard(node: ast.AST, methods: set[int], keys: set[int]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _GUARD_ATTRIBUTES and (id(node) in methods or node.attr in ("shape", "ndim"))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or getattr(node.func, "id", "") in _GUARD_FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id == "L" or node.id in _GUARD_FUNCTIONS or bool(re.fullmatch(r"[su]\d+", node.id))
    if isinstance(node, ast.Constant):
        return id(node) in keys or isinstance(node.value, (int, float))
    return True


def _refused(path: Path, name: str, why: str) -> LoadError:
    return LoadError(f"{path} was refused: of its member {name}, {why}. Only if you trust the file, pass --allow-pickle.")
