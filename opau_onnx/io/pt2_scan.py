"""Looking at an exported program (.pt2) before torch.export.load reads it, since that can run code of the file's.

It unpickles some members without protection, loads compiled libraries, hands symbolic sizes to sympy (which evaluates them
as Python), executes guards, writes names into Python source that it executes, imports the module of an enumeration, and
resolves the names of called functions to any attribute below ``torch``. So whatever is not known to be harmless is refused;
and what was looked at is what is loaded: a copy, since torch reads zip files in another way than Python does.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from opau_onnx.errors import LoadError
from opau_onnx.io.pt2_expressions import is_guard, is_size
from opau_onnx.io.torch_files import reason

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.data/\w+|extra/.+|models/\w+\.json|data/sample_inputs/\w+\.pt"
    r"|data/weights/(weight_\d+|\w+_weights_config\.json|\w+\.pt)|data/constants/(tensor_\d+|\w+_constants_config\.json|\w+\.pt)"
)
"""Members that torch.export.save writes; torch acts upon other names too."""
_CALLED = re.compile(
    r"torch\.ops\.(aten|prims|onnx|onnx_symbolic|higher_order|opau|torchvision|quantized_decomposed)\.(?!\w*__)\w+"
    r"(\.(?!\w*__)\w+)?|torch\.(_?sym_[a-z]+)|math\.[a-z0-9]+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|[lr]shift)"
)
"""Functions that a program may call: operators and arithmetic of sizes."""
_ON_FILES = re.compile(r"torch\.ops\.aten\.(save|from_file|load)\b.*")
_NAMES = ("name", "as_name", "forward_arg_names")
"""These become variables in Python source."""
_NAME = re.compile(r"([A-Za-z_]\w*)?")
_PLAIN = re.compile(r"(?!.*(^|\.)__)[\w .:/<>,+-]*")
"""All other texts, keys included: nothing that ends a string, calls or assigns."""
_FREE = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom", "as_string", "as_strings")
"""Texts that torch takes as texts."""
_DAMAGES = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError)


@contextmanager
def checked_copy(path: Path) -> Iterator[IO[bytes]]:
    """An open copy of a program that cannot run code when torch reads or runs it.

    Raises:
        LoadError: naming the member that could.
    """
    with tempfile.TemporaryFile() as copy:
        with zipfile.ZipFile(copy, "w") as target:
            for name, content in _checked_members(path):
                target.writestr(f"archive/{name}", content)
        copy.seek(0)
        yield copy


def _checked_members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            flagged: set[str] = set()
            for name, member in members.items():
                content = archive.read(member)
                flagged |= _check(path, name, content)
                yield name, content
            for name in sorted(flagged):
                if name not in members:
                    raise _refused(path, name, "it is to be unpickled but is not there")
                _check_pickle(path, name, archive.read(members[name]))
    except _DAMAGES as error:
        raise LoadError(f"{path} is damaged: {reason(error)}") from None


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, without the folder that all stand in."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        folder, _, name = member.filename.partition("/")
        kind = member.filename.lower()
        if kind.endswith("serialized_exported_program.json"):
            raise LoadError(f"{path} has the format of torch 2.7 and older; export it again with a newer torch")
        if name.lower() in {known.lower() for known in members}:
            raise LoadError(f"{path} was refused: two of its members have the same name")
        if "aotinductor" in kind or kind.endswith((".so", ".dll", ".dylib")):
            raise _refused(path, member.filename, "it is compiled code")
        if "custom_obj" in kind or "opaque_obj" in kind:
            raise _refused(path, member.filename, "it is a pickled object")
        if not _MEMBERS.fullmatch(name) or folder != archive.infolist()[0].filename.partition("/")[0]:
            raise _refused(path, member.filename, "it is no part of a program")
        if member.compress_type != zipfile.ZIP_STORED:
            raise _refused(path, member.filename, "it is compressed, which torch never does")
        members[name] = member
    return members


def _check(path: Path, name: str, content: bytes) -> set[str]:
    """Check one member; returns the members that it says are pickled."""
    if name.endswith(".json"):
        return _check_json(path, name, content)
    # A weight may begin with any bytes; unpickling is asked for by a flag or by the name ending in .pt.
    if name.endswith(".pt"):
        _check_pickle(path, name, content)
    return set()


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refused(path, name, f"unpickling it could run code ({reason(error)})") from None


def _check_json(path: Path, name: str, content: bytes) -> set[str]:
    try:
        tree = json.loads(content.decode("utf-8"))  # as torch does
        texts = list(_texts(tree))
    except (ValueError, RecursionError):
        raise LoadError(f"{path} is damaged: {name} in it is not JSON") from None
    for key, text in texts:
        if wrong := _wrong(key, text):
            raise _refused(path, name, wrong)
    flagged = set()
    for entry in _entries(tree):
        target = str(entry.get("path_name"))
        if any(kind in target.lower() for kind in ("custom_obj", "opaque_obj")):
            raise _refused(path, name, f"it names {target[:60]!r}, a pickled object")
        if entry.get("use_pickle"):
            flagged.add(posixpath.join(posixpath.dirname(name), target))
    return flagged


def _wrong(key: str, text: str) -> str | None:
    """Reason to refuse a text that stands under ``key``; None where there is none."""
    shown = repr(text[:60])
    if key in ("expr_str", "as_expr"):
        return None if is_size(text) else f"it holds the expression {shown}, which is no size"
    if key == "guards_code":
        return None if is_guard(text) else f"it holds the guard {shown}, which is no condition on sizes"
    if key in ("target", "as_operator"):
        harmless = _CALLED.fullmatch(text) and not _ON_FILES.fullmatch(text)
        return None if harmless else f"it calls {shown}, which is no operator for a model"
    if key in ("in_spec", "out_spec"):
        return None if _is_spec(text) else f"it holds the structure {shown}, which is not made of tuples, lists and dicts"
    if key in _FREE or (_NAME if key in _NAMES else _PLAIN).fullmatch(text):
        return None
    return f"it holds {shown} as a name"


def _is_spec(text: str) -> bool:
    """True for a text that describes a structure of arguments: JSON, in which texts may be JSON again."""
    try:
        tree = json.loads(text)
        return all(_PLAIN.fullmatch(inner) or _is_spec(inner) for _, inner in _texts(tree))
    except (ValueError, RecursionError):
        return False


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the key that it, or the list it stands in, has; keys themselves have the key ""."""
    if isinstance(tree, dict):
        for inner, value in tree.items():
            yield "", inner
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


def _refused(path: Path, name: str, reason: str) -> LoadError:
    return LoadError(f"{path} was refused: of its member {name}, {reason}. Only if you trust the file, pass --allow-pickle.")
