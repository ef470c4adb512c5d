"""Inference as the protocols see it: one request in, one response or one error out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opau_onnx.protocol.errors import CancelledError, QueueFullError, RequestError, UnavailableError
from opau_onnx.protocol.tensors import Array, TensorSpec
from opau_onnx.serve.batches import PendingRequest
from opau_onnx.serve.config import Settings
from opau_onnx.serve.model import ServedModel
from opau_onnx.serve.repository import Repository

T = TypeVar("T")
PENDING_FULL = "pending request bytes exceed max_pending_bytes; try again later"


@dataclass(frozen=True, slots=True)
class Request:
    """An inference request, decoded.

    Attributes:
        model, version: as asked for; an empty version is any.
        inputs: by name.
        outputs: names, or None for all.
        timeout_us: how long the client waits, in microseconds; None: as long as the server lets it.
        started: when it came, in nanoseconds of ``time.perf_counter_ns``.
        classes: how many classes are wanted instead of an output, by name.
    """

    model: str
    version: str
    inputs: dict[str, Array]
    outputs: list[str] | None
    timeout_us: int | None
    started: int
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """The outputs, in the order they were asked for, and the model they are from."""

    model: ServedModel
    outputs: tuple[TensorSpec, ...]
    arrays: dict[str, Array]
    pending: PendingRequest

    @property
    def rows(self) -> int:
        """Of the request."""
        return self.pending.rows


class Held:
    """Within it, a request's bytes are counted as pending: those that have arrived, then those of its tensors."""

    __slots__ = ("_service", "_size")

    def __init__(self, service: Service) -> None:
        self._service, self._size = service, 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        self.settle(0)

    def add(self, size: int) -> None:
        """Count bytes that have arrived, or are about to be made of them.

        Raises:
            QueueFullError: too many are counted already.
        """
        if self._service.pending_bytes + size > self._service.settings.server.max_pending_bytes:
            raise QueueFullError(PENDING_FULL)
        self.settle(self._size + size)

    def settle(self, size: int) -> None:
        """Count so many bytes instead of what was counted."""
        self._service.pending_bytes += size - self._size
        self._size = size


class Service:
    """A server's models.

    Attributes:
        settings: as it was started.
        repository: its models.
        draining: True once it goes down; what was accepted is still answered.
        pending_bytes: of the requests that are read or wait.
        refused: requests that ended before a model was found, by kind.
        about: what tells this server from others that answer at the same address; a label of all its metrics.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.repository = Repository(settings.models)
        self.draining = False
        self.pending_bytes = 0
        self.refused: dict[str, int] = {}
        self.about: dict[str, str] = {}
        self._aside = ThreadPoolExecutor(1, "opau-codec")

    @property
    def ready(self) -> bool:
        """Readiness: load balancers may send requests."""
        return self.repository.ready and not self.draining

    def held(self) -> Held:
        """Within it, a request's bytes are counted: while it is read and waits."""
        return Held(self)

    async def aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do in a thread what would hold up the event loop; one at a time, since it has Python's lock most of the time."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    async def infer(self, request: Request) -> Response:
        """Answer a request; one whose task is cancelled leaves the queue.

        Raises:
            RequestError: why it is not answered.
        """
        model = None
        try:
            model = self.repository.get(request.model, request.version)
            model.check(request.inputs, request.outputs)
            pending = model.batcher.submit(request.inputs, self._deadline(request))
            try:
                arrays = await pending.future
            except asyncio.CancelledError:
                model.batcher.drop(pending)
                raise
        except RequestError as error:
            self._failed(model, error.kind, request.started)
            raise
        except asyncio.CancelledError:
            self._failed(model, CancelledError.kind, request.started)
            raise
        specs = model.outputs_of(request.outputs)
        if request.classes:
            specs, arrays = await self.aside(model.classified, specs, request.classes, arrays)
        response = Response(model, specs, arrays, pending)
        model.statistics.answered(response.rows, time.perf_counter_ns() - request.started)
        return response

    def refuse(self, name: str, kind: str, started: int) -> None:
        """Count a request that never came to :meth:`infer`: it could not be read or decoded."""
        model = next((entry.served for entry in self.repository if entry.name == name), None)
        self._failed(model, kind, started)

    def _failed(self, model: ServedModel | None, kind: str, started: int) -> None:
        """Count a request that was not answered."""
        if model is None:
            self.refused[kind] = self.refused.get(kind, 0) + 1
        else:
            model.statistics.failed(kind, time.perf_counter_ns() - started)

    def _deadline(self, request: Request) -> float:
        limit = self.settings.server.request_timeout_s
        if request.timeout_us is not None:
            limit = min(limit, request.timeout_us / 1e6)
        return asyncio.get_running_loop().time() + limit

    async def shut_down(self, seconds: float | None = None) -> None:
        """Answer what was accepted, then end.

        Args:
            seconds: in which; None: ``drain_timeout_s``.

        Raises:
            UnavailableError: some requests had to be given up.
        """
        self.draining = True
        try:
            await asyncio.wait_for(
                self.repository.drain(), self.settings.server.drain_timeout_s if seconds is None else seconds
            )
        except TimeoutError:
            raise UnavailableError("requests were given up: they took longer than drain_timeout_s") from None
        finally:
            self.repository.close()
            self._aside.shutdown(wait=False)
