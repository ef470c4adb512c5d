"""Bytes of ONNX files, and the models that they hold: the guard before every reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from opau_onnx.errors import LoadError, SpecError


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a file.

    Raises:
        LoadError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise LoadError(f"{path} does not exist; expected an .onnx file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from None


def parse(content: bytes) -> onnx.ModelProto:
    """The model that bytes hold.

    Raises:
        SpecError: they hold none, or texts that are not UTF-8, which no tool can name or write again.
    """
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own types
        raise SpecError(f"this is not an ONNX model: {type(error).__name__}: {error}") from None
    try:
        for text in _texts(proto):
            if isinstance(text, bytes):  # as protobuf gives what it cannot decode
                text.decode()
    except UnicodeError as error:
        raise SpecError(f"this is not an ONNX model: it holds a name or text that is not UTF-8 ({error})") from None
    return proto


def _texts(message: Any) -> Iterator[str | bytes]:
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for part in [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value:
            if field.type == field.TYPE_STRING:
                yield part
            else:
                yield from _texts(part)
