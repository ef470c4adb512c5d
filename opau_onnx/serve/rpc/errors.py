"""How a call ends that is not answered."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc

from opau_onnx.protocol.errors import RequestError

logger = logging.getLogger("opau_onnx.serve")
LONGEST = 4096
"""Bytes of a status message: it travels in a header, percent-encoded, and clients refuse headers of more than 8 KiB."""


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status of an error; one that was not raised on purpose is logged, and the client is not told its message."""
    if isinstance(error, RequestError):
        return grpc.StatusCode[error.grpc], clipped(str(error))
    logger.error("a request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, f"the server failed: {type(error).__name__}"


def clipped(message: str) -> str:
    """A message that fits into a header."""
    limit = LONGEST if message.isascii() else LONGEST // 12  # 4 bytes, of which each becomes 3
    return message if len(message) <= limit else message[: limit - 3] + "..."


async def fail(context: Any, error: Exception) -> NoReturn:
    """End a call with an error."""
    code, message = status(error)
    # gRPC's context and the exception that abort raises refer to each other: what the error's frames hold, such as the request,
    # would stay until the next collection of garbage.
    error.__traceback__ = error.__context__ = None
    await context.abort(code, message)
    raise AssertionError("abort returned")
