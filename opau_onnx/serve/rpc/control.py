"""Every call apart from inference: health, metadata, statistics, and the model repository."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import InvalidRequestError, UnknownModelError
from opau_onnx.serve import reports
from opau_onnx.serve.model import ServedModel
from opau_onnx.serve.service import Service


class Control:
    """The calls by their names in the protocol, in small letters; each takes a message and the call's context."""

    def __init__(self, service: Service) -> None:
        self._service, self._repository = service, service.repository
        self._running: set[asyncio.Task[None]] = set()

    async def server_live(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def server_metadata(self, request: Any, context: Any) -> Any:
        return reports.server_metadata()

    async def model_ready(self, request: Any, context: Any) -> Any:
        try:
            ready = self._repository.is_ready(request.name, request.version)
        except UnknownModelError:  # as Triton answers over gRPC
            ready = False
        if ready:
            await _tell(context, self._repository.get(request.name, request.version))
        return pb.ModelReadyResponse(ready=ready)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        served = self._repository.get(request.name, request.version)
        await _tell(context, served)
        return reports.model_metadata(served)

    async def model_config(self, request: Any, context: Any) -> Any:
        return pb.ModelConfigResponse(config=reports.model_config(self._repository.get(request.name, request.version)))

    async def model_statistics(self, request: Any, context: Any) -> Any:
        return reports.statistics(self._repository, request.name, request.version)

    async def repository_index(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        return reports.index(self._repository, ready=request.ready)

    async def repository_model_load(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        if request.parameters:
            raise InvalidRequestError("a model is loaded from the file that the server was started with; send no parameters")
        await self._finish(self._repository.load(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        await self._finish(self._repository.unload(request.model_name))
        return pb.RepositoryModelUnloadResponse()

    async def system_shared_memory_status(self, request: Any, context: Any) -> Any:
        _check_region(request)
        return pb.SystemSharedMemoryStatusResponse()

    async def system_shared_memory_unregister(self, request: Any, context: Any) -> Any:
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_shared_memory_status(self, request: Any, context: Any) -> Any:
        _check_region(request)
        return pb.CudaSharedMemoryStatusResponse()

    async def cuda_shared_memory_unregister(self, request: Any, context: Any) -> Any:
        return pb.CudaSharedMemoryUnregisterResponse()

    async def _finish(self, action: Coroutine[Any, Any, None]) -> None:
        """Do it also where the client goes away meanwhile: a model that is half loaded helps nobody."""
        task = asyncio.get_running_loop().create_task(action)
        self._running.add(task)
        task.add_done_callback(self._finished)
        await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though its client may be gone


async def _tell(context: Any, served: ServedModel) -> None:
    """Send provider and implementation, which the protocol's messages have no field for, as initial metadata."""
    described = served.describe()
    await context.send_initial_metadata(tuple((f"opau-{key}", described[key]) for key in ("provider", "implementation")))


def _check_region(request: Any) -> None:
    if request.name:
        raise UnknownModelError(f"unknown shared memory region {request.name!r}: none can be registered")


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise InvalidRequestError(f"there is no repository {request.repository_name!r}; this server's has no name")
