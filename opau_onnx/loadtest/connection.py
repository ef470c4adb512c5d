"""Interface of a protocol: connections that carry one request at a time, and questions about the server itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from opau_onnx.loadtest.answers import Answer, Model, Question
from opau_onnx.loadtest.recorder import Recorder
from opau_onnx.loadtest.response_checker import Request


class Connection(ABC):
    """One client. What becomes of its request is told to ``finished`` once, later than :meth:`send` returns.

    Attributes:
        request: that is under way; None: the lane is free.
        since: when it was due, by time.perf_counter.
        recorder: where it counts.
        finished: called with the lane, the kind, the reason, when the answer was there (time.perf_counter) and its bytes.
        check: the judge's, for an answer's content.
    """

    request: Request | None = None
    since: float = 0.0
    recorder: Recorder

    def __init__(self, finished: Finished, check: Check) -> None:
        self.finished, self.check = finished, check

    async def open(self) -> None:  # noqa: B027 - not every protocol has something to do
        """Connect before the load, where that is possible; otherwise the first request finds out why not."""

    @abstractmethod
    def send(self, request: Request, timeout_s: float) -> None:
        """Begin a request."""

    @abstractmethod
    def expire(self) -> None:
        """The request's time is over: give it up, unless the protocol itself does so."""

    @abstractmethod
    def abandon(self) -> None:
        """Give up whatever is under way, and tell nobody."""


Finished = Callable[[Connection, str, str, float, int], None]
Check = Callable[[Request, Any], tuple[str, str]]


class Client(ABC):
    """A server, as one protocol reaches it. Every method but the first two may raise UnreachableError and StatusError."""

    @abstractmethod
    def message(self, model: Model, question: Question) -> bytes:
        """The bytes of an inference request."""

    @abstractmethod
    def read(self, content: Any) -> Answer:
        """An answer's content; raises BadAnswerError, or StatusError where it holds an error."""

    @abstractmethod
    def connection(self, finished: Finished, check: Check) -> Connection:
        """A new lane."""

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
    async def ask(self, message: bytes) -> Any:
        """The content of the answer to one inference request."""

    async def close(self) -> None:  # noqa: B027 - not every protocol has something to do
        """End what is left open."""


class UnreachableError(Exception):
    """No answer: the connection cannot be made, ended, or took too long."""
