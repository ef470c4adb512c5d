"""``grpc.health.v1``: what load balancers and Kubernetes' gRPC probes ask, by gRPC's health checking protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb

from opau_onnx.serve.rpc.codec import parse
from opau_onnx.serve.rpc.errors import fail
from opau_onnx.serve.service import Service

FULL_NAME = pb.DESCRIPTOR.services_by_name["Health"].full_name
STEP_SECONDS = 0.1
"""Between two looks of a Watch."""
Status = pb.HealthCheckResponse


class Health:
    """Answers Check and Watch for the whole server, whose name is empty, and for the inference service.

    Args:
        service: SERVING where it is ready: all models are loaded, and the server does not drain.
        name: of the inference service.
    """

    def __init__(self, service: Service, name: str) -> None:
        self._service, self._names = service, ("", name)

    def handlers(self) -> dict[str, Any]:
        """Handlers by the calls' addresses."""
        send: Callable[[Any], bytes] = pb.HealthCheckResponse.SerializeToString
        return {
            f"/{FULL_NAME}/Check": grpc.unary_unary_rpc_method_handler(self._check, None, send),
            f"/{FULL_NAME}/Watch": grpc.unary_stream_rpc_method_handler(self._watch, None, send),
        }

    def _status(self, name: str) -> Any:
        if name not in self._names:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._service.ready else Status.NOT_SERVING

    async def _check(self, raw: bytes, context: Any) -> Any:
        try:
            name = parse(pb.HealthCheckRequest, raw).service
        except Exception as error:
            await fail(context, error)
        if (status := self._status(name)) == Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {name!r}; expected one of {self._names}")
        return pb.HealthCheckResponse(status=status)

    async def _watch(self, raw: bytes, context: Any) -> AsyncIterator[Any]:
        """The status now and whenever it changes; ends with the server's draining, which its last message tells."""
        try:
            name = parse(pb.HealthCheckRequest, raw).service
        except Exception as error:
            await fail(context, error)
        last = None
        while True:
            draining = self._service.draining
            if (status := self._status(name)) != last:
                yield pb.HealthCheckResponse(status=status)
                last = status
            if draining:
                return
            await asyncio.sleep(STEP_SECONDS)
