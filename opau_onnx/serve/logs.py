"""Log lines: those of all of Python's loggers, one line each, as text or as JSON.

The server's own code logs through ``logging.getLogger("opau_onnx.serve")`` and gives what belongs to a message as
``extra={"fields": {...}}``; each field becomes a key of the line. No line holds a bearer token, and a string that a client sent
cannot begin a new line or steer a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
OWN = ("opau_onnx",)
"""Loggers that the level is for; from others come warnings and errors only, since their details help nobody here."""
HEAD = ("timestamp", "level", "logger", "event")
"""Keys of every line."""
_RESERVED = (*HEAD, "exception", "exc_info", "stack_info")
_TOKEN = re.compile(r"\b(bearer\s+)(?!tokens?(?![A-Za-z0-9\-._~+/=]))[A-Za-z0-9\-._~+/]+=*", re.IGNORECASE)
"""Tokens that RFC 6750 lets a client send; the words "bearer token" are none."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_access = logging.getLogger("opau_onnx.serve.access")


class Handler(logging.StreamHandler[TextIO]):
    """Ours, to be known again."""


def configure(format: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send what every logger says to one stream; a second call replaces the first.

    Args:
        format: "text": ``TIMESTAMP LEVEL LOGGER: MESSAGE KEY=VALUE ...``; "json": an object a line.
        level: a key of :data:`LEVELS`.
        stream: None: standard error.
    """
    handler = Handler(stream or sys.stderr)
    handler.setFormatter(formatter(format))
    root = logging.getLogger()
    for old in [found for found in root.handlers if isinstance(found, Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(LEVELS[level], logging.WARNING))
    for name in OWN:
        logging.getLogger(name).setLevel(LEVELS[level])


def formatter(format: Literal["text", "json"]) -> logging.Formatter:
    """Formatter of log records; a traceback shows no values of variables, since those may be a request's data."""
    render = structlog.processors.JSONRenderer() if format == "json" else _text
    return structlog.stdlib.ProcessorFormatter(
        processors=[_keys, structlog.processors.format_exc_info, render, _without_tokens, _printable_line]
    )


def access_is_on() -> bool:
    """True where :func:`access` writes anything."""
    return _access.isEnabledFor(logging.DEBUG)


def access(protocol: str, model: str, rows: int, status: int | str, ms: float, request_id: str = "") -> None:
    """The line of one request, at level "debug"; where that is off, next to nothing.

    Args:
        protocol: "http" or "grpc".
        model: as the client named it.
        rows: of the request; 0 where it was not decoded.
        status: of the protocol.
        ms: from its acceptance to its response.
        request_id: the client's, if it sent one.
    """
    if not access_is_on():
        return
    fields = {"protocol": protocol, "model": model, "rows": rows, "status": status, "ms": round(ms, 3)}
    _access.debug("request", extra={"fields": {**fields, "request_id": request_id} if request_id else fields})


def _keys(_: WrappedLogger, level: str, event: EventDict) -> EventDict:
    """The keys of a line, from a record of Python's logging."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": record.name,
        **event,
        **{f"{key}_" if key in _RESERVED else key: value for key, value in fields.items()},
    }


def _text(_: WrappedLogger, __: str, event: EventDict) -> str:
    timestamp, level, logger, message = (event.pop(key) for key in HEAD)
    fields = "".join(f" {key}={_value(value)}" for key, value in event.items())
    return f"{timestamp} {level} {logger}: {message}{fields}"


def _value(value: Any) -> str:
    """As it is where that is one word, else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    plain = text.isprintable() and text and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def _without_tokens(_: WrappedLogger, __: str, line: Any) -> Any:
    return _TOKEN.sub(r"\1***", line)


def _printable_line(_: WrappedLogger, __: str, line: Any) -> Any:
    return line if line.isprintable() else "".join(map(_printable, line))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return _SHORT.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
