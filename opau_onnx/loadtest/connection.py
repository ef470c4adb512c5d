"""Interface of a protocol: connections with one request in flight each, and metadata calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from opau_onnx.loadtest.recorder import Recorder
from opau_onnx.loadtest.response_checker import PreparedRequest
from opau_onnx.loadtest.responses import InferRequest, InferResponse, ServedModel


class Connection(ABC):
    """One client with at most one request in flight; ``finished`` is called once for each, after :meth:`send` has returned.

    Attributes:
        request: in flight; None: the connection is idle.
        since: when it was due (time.perf_counter).
        recorder: of the phase that it counts in.
        finished: called with the connection, the outcome, the reason, when the response was there (time.perf_counter) and its
            bytes.
        check: :meth:`ResponseChecker.check`, for a response's content.
    """

    request: PreparedRequest | None = None
    since: float = 0.0
    recorder: Recorder

    def __init__(self, finished: Finished, check: Check) -> None:
        self.finished, self.check = finished, check

    async def open(self) -> None:  # noqa: B027 - not every protocol has something to do
        """Connect before the load, where that is possible; otherwise the first request reports the failure."""

    @abstractmethod
    def send(self, request: PreparedRequest, timeout_s: float) -> None:
        """Send a request."""

    @abstractmethod
    def expire(self) -> None:
        """Deadline exceeded: cancel the request, unless the protocol itself does so."""

    @abstractmethod
    def abandon(self) -> None:
        """Cancel the request in flight without calling ``finished``."""


Finished = Callable[[Connection, str, str, float, int], None]
Check = Callable[[PreparedRequest, Any], tuple[str, str]]


class Client(ABC):
    """A server, as one protocol reaches it. Every method but the first two may raise UnreachableError and StatusError."""

    @abstractmethod
    def encode(self, model: ServedModel, request: InferRequest) -> bytes:
        """The bytes of an inference request."""

    @abstractmethod
    def parse(self, content: Any) -> InferResponse:
        """Parse a response's content; raises InvalidResponseError, or StatusError where it holds an error."""

    @abstractmethod
    def connection(self, finished: Finished, check: Check) -> Connection:
        """A new connection."""

    @abstractmethod
    async def server(self) -> Mapping[str, Any]:
        """The server's metadata."""

    @abstractmethod
    async def describe(self, name: str, version: str | None) -> Mapping[str, Any]:
        """A model's metadata, with "parameters" where the server gives any."""

    @abstractmethod
    async def ready(self, name: str, version: str | None) -> bool:
        """Readiness of a model."""

    @abstractmethod
    async def index(self) -> list[tuple[str, bool]]:
        """(Name, ready) of every model in the repository."""

    @abstractmethod
    async def infer(self, message: bytes) -> Any:
        """Send one inference request; returns the content of its response."""

    async def close(self) -> None:  # noqa: B027 - not every protocol has something to do
        """Close all connections."""


class UnreachableError(Exception):
    """No response: the connection failed, or its deadline was exceeded."""
