"""Parameters of inference requests that mean the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opau_onnx.protocol.errors import InvalidRequestError

UNSUPPORTED = ("classification", "shared_memory_region", "sequence_id", "sequence_start", "sequence_end")
"""Of the protocol's extensions; they would change what is asked for."""


def check_supported(parameters: Mapping[str, Any]) -> None:
    """Check that the request has no parameters that the server does not support; those that are off, 0 or empty are ignored.

    Raises:
        InvalidRequestError: one of them asks for what this server does not do.
    """
    for name in UNSUPPORTED:
        if parameters.get(name):
            raise InvalidRequestError(f"parameter {name!r} is not supported by this server")


def timeout_us(parameters: Mapping[str, Any]) -> int | None:
    """How long the client waits, in microseconds; None where it does not say, or says 0.

    Raises:
        InvalidRequestError: it is no whole number of at least 0.
    """
    value = parameters.get("timeout", 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(f"parameter 'timeout' is {value!r}; expected microseconds, a whole number of at least 0")
    return value or None
