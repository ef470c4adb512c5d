"""Parameters of inference requests that mean the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opau_onnx.protocol.errors import InvalidRequestError

CLASSIFICATION = "classification"
"""Of an output: how many of its largest values are wanted, instead of all of it."""
UNSUPPORTED = (CLASSIFICATION, "shared_memory_region", "sequence_id", "sequence_start", "sequence_end")
"""Of the protocol's extensions; they would change what is asked for."""


def check_supported(parameters: Mapping[str, Any], *, but: str | None = None) -> None:
    """Check that the request has no parameters that the server does not support; those that are off, 0 or empty are ignored.

    Args:
        parameters: of a request, an input or an output.
        but: one that is supported there.

    Raises:
        InvalidRequestError: one of them asks for what this server does not do.
    """
    for name in UNSUPPORTED:
        if name != but and parameters.get(name):
            raise InvalidRequestError(f"parameter {name!r} is not supported by this server")


def check_distinct(outputs: Sequence[str]) -> None:
    """Check that no output is requested twice.

    Raises:
        InvalidRequestError: one is.
    """
    seen = set[str]()
    for name in outputs:
        if name in seen:
            raise InvalidRequestError(f"duplicate output {name!r} in the requested outputs")
        seen.add(name)


def class_count(name: str, parameters: Mapping[str, Any]) -> int:
    """How many classes of an output are wanted; 0: the output itself.

    Raises:
        InvalidRequestError: it is no whole number of at least 0, or another parameter of the output is not supported.
    """
    check_supported(parameters, but=CLASSIFICATION)
    value = parameters.get(CLASSIFICATION, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(
            f"parameter {CLASSIFICATION!r} of output {name!r} is {value!r}; expected a whole number of at least 0"
        )
    return value


def timeout_us(parameters: Mapping[str, Any]) -> int | None:
    """How long the client waits, in microseconds; None where it does not say, or says 0.

    Raises:
        InvalidRequestError: it is no whole number of at least 0.
    """
    value = parameters.get("timeout", 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(f"parameter 'timeout' is {value!r}; expected microseconds, a whole number of at least 0")
    return value or None
