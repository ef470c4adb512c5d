"""Which call is answered by what, and who may make it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import ForbiddenError, RequestError, UnauthenticatedError, UnavailableError
from opau_onnx.serve.rpc.codec import parse
from opau_onnx.serve.rpc.control import Control
from opau_onnx.serve.rpc.errors import fail
from opau_onnx.serve.rpc.gate import Gate
from opau_onnx.serve.rpc.health import Health
from opau_onnx.serve.rpc.infer import Infer
from opau_onnx.serve.security import Access

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OPEN = ("ServerLive", "ServerReady")
"""Calls that need no token: whoever restarts servers makes them."""
ADMIN = ("RepositoryModelLoad", "RepositoryModelUnload")
UNIMPLEMENTED = {
    "SystemSharedMemoryRegister": "tensors are not read from shared memory; send them in the request",
    "CudaSharedMemoryRegister": "tensors are not read from shared memory; send them in the request",
    "TraceSetting": "traces are set when the server is started, not by clients",
    "LogSettings": "logs are set when the server is started, not by clients",
}
"""Why a call is not answered, by the beginning of its name."""
INFER = f"/{SERVICE.full_name}/ModelInfer"
Call = Callable[[Any, Any], Awaitable[Any]]


class Methods:
    """The service's calls, as ``grpc.GenericRpcHandler``.

    Args:
        gate: says whether new calls are let in, and counts them.
        infer: answers inference.
        control: answers all else.
        access: who may do what.
        health: answers gRPC's own health protocol, without a token; None: nothing does.
    """

    def __init__(self, gate: Gate, infer: Infer, control: Control, access: Access, health: Health | None = None) -> None:
        self._gate, self._access = gate, access
        more = {} if health is None else health.handlers()
        self._open = frozenset((*map(_address, OPEN), *more))
        self._handlers = {_address(method.name): _handler(method, gate, infer, control) for method in SERVICE.methods} | more
        self._admin = frozenset(_address(name) for name in ADMIN)
        self._late = _refusing(UnavailableError("the server is shutting down"), gate)
        self._infer, self._one_by_one = infer, _one_by_one(infer)

    def service(self, details: Any) -> Any:
        """The handler of a call; None for one that the protocol does not have."""
        handler = self._handlers.get(details.method)
        if handler is None or details.method in self._open:
            return handler
        if self._gate.closed:
            return self._late
        value = dict(details.invocation_metadata).get("authorization")
        try:
            self._access.check(
                "admin" if details.method in self._admin else "inference", value if isinstance(value, str) else None
            )
        except (UnauthenticatedError, ForbiddenError) as error:
            return _refusing(error)
        reception = self._infer.reception
        return self._one_by_one if details.method == INFER and reception is not None and not reception.plain() else handler


def refusal(code: grpc.StatusCode, message: str, gate: Gate | None = None) -> Any:
    """A handler that ends a call without reading its request; with a closed gate, when that says so."""

    async def refuse(requests: Any, context: Any) -> None:
        if gate is not None:
            await gate.refusal()
        await context.abort(code, message)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _refusing(error: RequestError, gate: Gate | None = None) -> Any:
    return refusal(grpc.StatusCode[error.grpc], str(error), gate)


def _address(name: str) -> str:
    return f"/{SERVICE.full_name}/{name}"


def _handler(method: Any, gate: Gate, infer: Infer, control: Control) -> Any:
    if method.name == "ModelInfer":
        return grpc.unary_unary_rpc_method_handler(infer.call, None, pb.ModelInferResponse.SerializeToString)
    if method.name == "ModelStreamInfer":
        return grpc.stream_stream_rpc_method_handler(infer.stream, None, pb.ModelStreamInferResponse.SerializeToString)
    for beginning, reason in UNIMPLEMENTED.items():
        if method.name.startswith(beginning):
            return refusal(grpc.StatusCode.UNIMPLEMENTED, f"{method.name} is not served: {reason}")
    call: Call = getattr(control, re.sub(r"(?<=.)(?=[A-Z])", "_", method.name).lower())
    return _unary(gate, call, getattr(pb, method.input_type.name), getattr(pb, method.output_type.name))


def _one_by_one(infer: Infer) -> Any:
    """The handler of an inference call that takes a fifth more of a core, and decides itself when its request is read."""
    return grpc.stream_stream_rpc_method_handler(infer.call_that_can_end, None, pb.ModelInferResponse.SerializeToString)


def _unary(gate: Gate, call: Call, request: Any, response: Any) -> Any:
    async def handle(raw: bytes, context: Any) -> Any:
        gate.enter(context)
        try:
            return await call(parse(request, raw), context)
        except Exception as error:
            await fail(context, error)

    return grpc.unary_unary_rpc_method_handler(handle, None, response.SerializeToString)
