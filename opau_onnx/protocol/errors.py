"""Why a request was not answered, with the status of each protocol. No protocol's package is imported here."""

from __future__ import annotations

from typing import ClassVar

from opau_onnx.errors import OpauError


class RequestError(OpauError):
    """A request that is not answered.

    Attributes:
        kind: a short name, the label of the error metric.
        http: the HTTP status.
        grpc: the name of the gRPC status (``grpc.StatusCode``).
    """

    kind: ClassVar[str] = "internal"
    http: ClassVar[int] = 500
    grpc: ClassVar[str] = "INTERNAL"


class InvalidRequestError(RequestError):
    """The request is not one of the protocol, or does not fit the model."""

    kind, http, grpc = "invalid", 400, "INVALID_ARGUMENT"


class UnauthenticatedError(RequestError):
    """The bearer token is missing or wrong."""

    kind, http, grpc = "unauthenticated", 401, "UNAUTHENTICATED"


class ForbiddenError(RequestError):
    """What this server does for nobody, or not for this client."""

    kind, http, grpc = "forbidden", 403, "PERMISSION_DENIED"


class UnknownModelError(RequestError):
    """No such model, or no such version of it."""

    kind, http, grpc = "unknown_model", 404, "NOT_FOUND"


class TooLargeError(RequestError):
    """The request is larger than the limit."""

    kind, http, grpc = "too_large", 413, "RESOURCE_EXHAUSTED"


class QueueFullError(RequestError):
    """As many requests wait as may wait."""

    kind, http, grpc = "queue_full", 429, "RESOURCE_EXHAUSTED"


class CancelledError(RequestError):
    """The client went away."""

    kind, http, grpc = "cancelled", 499, "CANCELLED"


class RunError(RequestError):
    """onnxruntime failed on this request's inputs alone."""

    kind, http, grpc = "run", 500, "INTERNAL"


class UnsupportedError(RequestError):
    """An extension of the protocol that this server does not have."""

    kind, http, grpc = "unsupported", 501, "UNIMPLEMENTED"


class UnavailableError(RequestError):
    """The model is not loaded, or the server is going down."""

    kind, http, grpc = "unavailable", 503, "UNAVAILABLE"


class DeadlineError(RequestError):
    """The deadline was exceeded."""

    kind, http, grpc = "deadline", 504, "DEADLINE_EXCEEDED"


KINDS = tuple(
    kind.kind
    for kind in (
        InvalidRequestError,
        UnauthenticatedError,
        ForbiddenError,
        UnknownModelError,
        TooLargeError,
        QueueFullError,
        CancelledError,
        RunError,
        UnsupportedError,
        UnavailableError,
        DeadlineError,
        RequestError,
    )
)
"""Of errors, for metrics."""
