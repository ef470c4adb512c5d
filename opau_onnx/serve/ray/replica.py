"""One replica: the server's models, its ASGI application and its gRPC calls in a process of Ray's."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from opau_onnx.protocol.errors import RequestError, RunError, UnavailableError
from opau_onnx.serve import logs, security, tracing
from opau_onnx.serve.config import ModelSettings, Settings, check
from opau_onnx.serve.http.app import create_app
from opau_onnx.serve.model import ServedModel
from opau_onnx.serve.ray.calls import Calls, Protocol
from opau_onnx.serve.ray.settings import on_replica
from opau_onnx.serve.repository import Entry, Repository
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.rpc.control import Control
from opau_onnx.serve.rpc.gate import Gate
from opau_onnx.serve.rpc.infer import Infer
from opau_onnx.serve.rpc.methods import Methods
from opau_onnx.serve.server import SWITCH_INTERVAL
from opau_onnx.serve.service import Service
from opau_onnx.serve.warmup import sample, shapes

logger = logging.getLogger("opau_onnx.serve")
PROBE_S = 10.0


class OneOfManyError(RequestError):
    """Refuse requests that would reach one replica only, or be forgotten with it."""

    kind, http, grpc = "one_of_many", 501, "UNIMPLEMENTED"


class ReplicaRepository(Repository):
    """Models that are loaded when the replica starts, and then stay."""

    def __init__(self, models: Mapping[str, ModelSettings], about: dict[str, str]) -> None:
        super().__init__(models)
        self._about = about

    async def load(self, name: str) -> None:
        """Refuse.

        Raises:
            OneOfManyError: always, for a model that is there.
        """
        self._refuse(name)

    async def unload(self, name: str) -> None:
        """Refuse.

        Raises:
            OneOfManyError: always, for a model that is there.
        """
        self._refuse(name)

    def _refuse(self, name: str) -> None:
        self.entry(name)
        raise OneOfManyError(
            "this is one replica of several on a Ray cluster; to serve other models or files, deploy anew (serve deploy), which"
            " replaces the replicas one after the other"
        )

    async def _load(self, entry: Entry) -> None:
        await super()._load(entry)
        if entry.served is not None:
            entry.served.about.update(self._about)


class ReplicaService(Service):
    """A service that tells which replica it is."""

    def __init__(self, settings: Settings, about: dict[str, str]) -> None:
        super().__init__(settings)
        self.about = about
        self.repository = ReplicaRepository(settings.models, about)


class Health:
    """Finds out whether models fail whatever they are asked, as after an error of a GPU that its process cannot get rid of."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._seen: dict[str, tuple[int, int]] = {}

    async def check(self) -> None:
        """Nothing, where all models answer.

        Raises:
            RequestError: one is not loaded, or fails on inputs of our own.
        """
        for entry in self._repository:
            if entry.served is None:
                raise UnavailableError(f"model {entry.name!r} is {entry.state.lower()}: {entry.reason}")
            counts = entry.statistics.success.count, entry.statistics.errors[RunError.kind]
            answered, failed = self._seen.get(entry.name, (0, 0))
            if counts[0] == answered and counts[1] > failed:  # clients may have sent what the model cannot take
                await _probe(entry.served)
            self._seen[entry.name] = counts


async def _probe(model: ServedModel) -> None:
    prepared = model.prepared
    row = shapes(prepared.settings, model.inputs)
    if row is None:
        return
    inputs = sample(model.inputs, row, 1 if prepared.max_batch_size else None)
    try:
        await model.batcher.submit(inputs, asyncio.get_running_loop().time() + PROBE_S).future
    except RunError:
        raise
    except RequestError:  # a queue that is full or long says nothing about the model
        pass


class OpauServe(Protocol):
    """The deployment.

    Args:
        raw: :class:`~opau_onnx.serve.config.Settings` as plain data.
    """

    async def __init__(self, raw: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        import ray
        from ray import serve

        reserved = ray.get_runtime_context().get_assigned_resources()
        settings = on_replica(check(raw), reserved.get("CPU", 0.0), len(ray.get_gpu_ids()))
        # Not sys.stderr, which Serve replaces by a log file that it writes a thousand lines later.
        logs.configure(settings.server.log_format, settings.server.log_level, sys.__stderr__)
        sys.setswitchinterval(SWITCH_INTERVAL)
        about = {"replica": serve.get_replica_context().replica_tag}
        self._service = ReplicaService(settings, about)
        # The repository refuses to load and unload, with the reason that holds here.
        self._access = security.Access(msgspec.structs.replace(settings.server, model_control=True))
        self._tracer = tracing.start(settings.server.otlp_endpoint)
        self._health = Health(self._service.repository)
        await self._service.repository.load_all()
        gate = Gate()
        methods = Methods(gate, Infer(self._service, gate, self._tracer), Control(self._service), self._access)
        self._calls = Calls(methods, settings.server.max_request_bytes)

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self._service, self._access, Observer(self._tracer))

    async def check_health(self) -> None:
        """Ray replaces the replica where this raises.

        Raises:
            RequestError: a model does not work.
        """
        await self._health.check()

    async def __del__(self) -> None:
        """Ray calls it once the replica has no requests left, before its process ends."""
        if hasattr(self, "_service"):
            try:
                await self._service.shut_down()
            except UnavailableError as error:
                logger.warning("%s", error)
        tracer = getattr(self, "_tracer", None)
        if tracer is not None:
            await asyncio.to_thread(tracer.close)
