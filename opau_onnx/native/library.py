"""Where the compiled op library lies, and what was built into it. Loads nothing but the standard library."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from opau_onnx.errors import LibraryError

OVERRIDE = "OPAU_LIBRARY"
"""Environment variable with the path of another library, such as that of a CMake preset."""

NAME = {"win32": "opau_onnx_ops.dll", "darwin": "libopau_onnx_ops.dylib"}.get(sys.platform, "libopau_onnx_ops.so")
# pip keeps the wheel that it built, also one without the library, and would install it again.
_REINSTALL = (
    "install the package again: pip install -v --force-reinstall --no-deps --no-cache-dir opau-onnx (in a clone, . in place of "
    "opau-onnx)"
)
logger = logging.getLogger("opau_onnx")
_said: set[str] = set()


def get_library_path() -> str:
    """Absolute path of the compiled op library, for ``SessionOptions.register_custom_ops_library``.

    The environment variable ``OPAU_LIBRARY`` names another one.

    Raises:
        LibraryError: the library was not built, with the reason, or ``OPAU_LIBRARY`` names no file.
    """
    path = _overriding()
    if path is not None:
        return str(path)
    folders = _folders()
    for folder in folders:
        if (folder / NAME).is_file():
            return str((folder / NAME).resolve())
    record = _record(folders)
    if record is None:
        places = " or ".join(map(str, folders))
        raise LibraryError(f"the compiled op library {NAME} is not in {places}; {_REINSTALL}")
    reason = record.get("reason") or f"its build is recorded but {NAME} is gone"
    raise LibraryError(f"the compiled op library was not built: {reason}. To mend it, {_REINSTALL}")


def build_info() -> dict[str, Any]:
    """The build record: the library's ``build.json``.

    Keys: ``built``, ``reason`` (why not), ``cuda``, ``cuda_architectures``, ``cuda_reason`` (why no CUDA), ``compiler``,
    ``onnxruntime_headers``, ``sanitizers``, ``version``.

    Raises:
        LibraryError: no record is there, or it cannot be read.
    """
    path = _overriding()
    folders = _folders() if path is None else [path.parent]
    record = _record(folders)
    if record is None:
        raise LibraryError(f"no build.json in {' or '.join(map(str, folders))}; {_REINSTALL}")
    return record


def say_missing(reason: str) -> None:
    """Log a warning, once in a process: pip shows nothing of a build that went without the library.

    Args:
        reason: the text of the :class:`~opau_onnx.errors.LibraryError`.
    """
    # Where logging is switched off for a while, nobody would see it.
    if reason not in _said and logger.isEnabledFor(logging.WARNING):
        _said.add(reason)
        logger.warning("compiled kernels are not installed, so learned activations are many times slower: %s", reason)


def say_if_missing() -> None:
    """:func:`say_missing`, where there is no library."""
    try:
        get_library_path()
    except LibraryError as error:
        say_missing(str(error))


def _overriding() -> Path | None:
    value = os.environ.get(OVERRIDE)
    if not value:
        return None
    path = Path(value).expanduser().resolve()
    if not path.is_file():
        raise LibraryError(f"{OVERRIDE} is {value!r}, but there is no such file; build it, name another, or unset {OVERRIDE}")
    return path


def _folders() -> list[Path]:
    # An editable install has two: the sources and, in site-packages, what CMake built.
    import opau_onnx

    parts = [Path(part).resolve() for part in opau_onnx.__path__]
    return list(dict.fromkeys(part / "lib" for part in parts if part.name == "opau_onnx"))


def _record(folders: list[Path]) -> dict[str, Any] | None:
    for folder in folders:
        path = folder / "build.json"
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise LibraryError(f"{path} is not JSON ({error}); {_REINSTALL}") from error
            if isinstance(record, dict):
                return record
            raise LibraryError(f"{path} holds no JSON object; {_REINSTALL}")
    return None
