"""Client over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from opau_onnx.loadtest.config import LoadTestConfig, LoadTestError, Target
from opau_onnx.loadtest.connection import Check, Client, Connection, Finished, UnreachableError
from opau_onnx.loadtest.recorder import CONNECTION_FAILED, CONNECTION_LOST, REJECTED, TIMED_OUT
from opau_onnx.loadtest.response_checker import PreparedRequest
from opau_onnx.loadtest.responses import InferRequest, InferResponse, InvalidResponseError, ServedModel, StatusError, Tensor
from opau_onnx.loadtest.responses import tensor as tensor_of
from opau_onnx.protocol.tensors import DATATYPES

STREAMS_PER_CHANNEL = 64
"""Clients that share one channel, as calls of one process do; many servers allow 100 concurrent streams on each."""
_OPTIONS = (
    ("grpc.enable_retries", 0),  # a request that failed is counted, not sent again
    ("grpc.use_local_subchannel_pool", 1),  # channels don't share connections
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_NOT_CONNECTED = "failed to connect"
_BROKEN = ("stream removed", "socket closed", "connection reset", "broken pipe", "connection closed", "goaway", "recvmsg")
"""In the details of UNAVAILABLE where a connection ended: grpc distinguishes it from the server's own by nothing else."""
_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
Infer = Callable[[bytes, float], Coroutine[Any, Any, bytes]]


def outcome(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """(Outcome, reason) of a failed call."""
    code, details = error.code(), " ".join(str(error.details() or "").split())
    lower = details.lower()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TIMED_OUT, "no response"
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return REJECTED, details
    if code == grpc.StatusCode.UNAVAILABLE and lower.startswith(_NOT_CONNECTED):
        return CONNECTION_FAILED, details.partition("last error: ")[2] or details
    if code == grpc.StatusCode.UNAVAILABLE and any(sign in lower for sign in _BROKEN):
        return CONNECTION_LOST, f"connection ended without a response: {details}"
    return code.name, details


class GrpcClientConnection(Connection):
    """One call at a time on a shared channel."""

    def __init__(self, infer: Infer, finished: Finished, check: Check) -> None:
        super().__init__(finished, check)
        self._infer = infer
        self._task: asyncio.Task[None] | None = None

    def send(self, request: PreparedRequest, timeout_s: float) -> None:
        self.request = request
        self._task = asyncio.get_running_loop().create_task(self._call(request, timeout_s))

    async def _call(self, request: PreparedRequest, timeout_s: float) -> None:
        received = 0
        try:
            content = await self._infer(request.message, timeout_s)
        except grpc.aio.AioRpcError as error:
            now = time.perf_counter()
            kind, reason = outcome(error)
        except Exception as error:  # of grpc itself
            now, kind, reason = time.perf_counter(), type(error).__name__, str(error)
        else:
            now, received = time.perf_counter(), len(content)
            kind, reason = self.check(request, content)
        self.finished(self, kind, reason, now, received)

    def expire(self) -> None:
        """The call has a deadline."""

    def abandon(self) -> None:
        self.request = None
        if self._task is not None:
            self._task.cancel()


class GrpcClient(Client):
    """See :class:`opau_onnx.loadtest.connection.Client`."""

    def __init__(self, target: Target, settings: LoadTestConfig) -> None:
        self._target, self._settings = target, settings
        self._metadata = None if settings.token is None else (("authorization", f"Bearer {settings.token}"),)
        self._credentials = _credentials(settings) if target.tls else None
        self._channels: list[grpc.aio.Channel] = []
        self._connections = 0
        self._infer = self._new_channel()
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channels[0])

    def _new_channel(self) -> Infer:
        """ModelInfer on a new channel, from and to the messages' bytes."""
        authority = self._target.authority
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(authority, options=_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(authority, self._credentials, options=_OPTIONS)
        self._channels.append(channel)
        call = channel.unary_unary(f"/{_SERVICE}/ModelInfer")
        metadata = self._metadata

        async def infer(message: bytes, timeout_s: float) -> bytes:
            return await call(message, timeout=timeout_s, metadata=metadata)  # type: ignore[no-any-return]

        return infer

    def encode(self, model: ServedModel, request: InferRequest) -> bytes:
        message = service_pb2.ModelInferRequest(model_name=model.name, model_version=model.version or "", id=request.id)
        for spec in model.inputs:
            array = request.inputs[spec.name]
            message.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
            message.raw_input_contents.append(tensor_of(array, spec.datatype).content)
        for spec in model.outputs:
            message.outputs.add(name=spec.name)
        return bytes(message.SerializeToString())

    def parse(self, content: Any) -> InferResponse:
        try:
            response = service_pb2.ModelInferResponse.FromString(content)
        except Exception as error:  # google.protobuf.message.DecodeError
            raise InvalidResponseError(f"the response is not a ModelInferResponse: {error}") from None
        raw = list(response.raw_output_contents) or [_from_contents(one) for one in response.outputs]
        if len(raw) != len(response.outputs):
            raise InvalidResponseError(f"the response has {len(raw)} raw_output_contents for {len(response.outputs)} outputs")
        pairs = zip(response.outputs, raw, strict=True)
        return InferResponse(response.id, {one.name: Tensor(one.datatype, tuple(one.shape), bytes_) for one, bytes_ in pairs})

    def connection(self, finished: Finished, check: Check) -> Connection:
        if self._connections and self._connections % STREAMS_PER_CHANNEL == 0:
            self._infer = self._new_channel()
        self._connections += 1
        return GrpcClientConnection(self._infer, finished, check)

    async def server(self) -> Mapping[str, Any]:
        return _plain(await self._call(self._stub.ServerMetadata, service_pb2.ServerMetadataRequest()))

    async def describe(self, name: str, version: str | None) -> Mapping[str, Any]:
        asked = {"name": name, "version": version or ""}
        found = _plain(await self._call(self._stub.ModelMetadata, service_pb2.ModelMetadataRequest(**asked)))
        try:
            config = (await self._call(self._stub.ModelConfig, service_pb2.ModelConfigRequest(**asked))).config
        except StatusError:  # an extension that not every server has
            return found
        return {**found, "parameters": {key: value.string_value for key, value in config.parameters.items()}}

    async def ready(self, name: str, version: str | None) -> bool:
        request = service_pb2.ModelReadyRequest(name=name, version=version or "")
        try:
            return bool((await self._call(self._stub.ModelReady, request)).ready)
        except StatusError:
            return False

    async def index(self) -> list[tuple[str, bool]]:
        found = await self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest())
        return [(model.name, model.state in ("", "READY")) for model in found.models]

    async def infer(self, message: bytes) -> Any:
        return await self._guarded(self._infer(message, self._settings.timeout_s))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _call(self, method: Any, request: Any) -> Any:
        return await self._guarded(method(request, timeout=self._settings.timeout_s, metadata=self._metadata))

    async def _guarded(self, call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            kind, reason = outcome(error)
            if kind in (CONNECTION_FAILED, CONNECTION_LOST, TIMED_OUT):
                raise UnreachableError(reason) from None
            raise StatusError(error.code().name, reason) from None


def _from_contents(one: Any) -> bytes:
    """The bytes of a tensor that came as numbers."""
    kind = DATATYPES.get(one.datatype)
    fields = one.contents.ListFields()
    if kind is None or len(fields) > 1:
        raise InvalidResponseError(f"output {one.name!r} has neither raw_output_contents nor numbers of its datatype")
    try:
        return np.array(fields[0][1] if fields else (), kind.numpy).tobytes()
    except (TypeError, ValueError, OverflowError):
        raise InvalidResponseError(f"output {one.name!r} holds numbers that {one.datatype} does not have") from None


def _credentials(settings: LoadTestConfig) -> grpc.ChannelCredentials:
    if settings.ca is None:
        return grpc.ssl_channel_credentials()
    from opau_onnx.loadtest.http_connection import tls_context

    tls_context(settings)  # gRPC itself takes any bytes, and then fails every handshake
    try:
        return grpc.ssl_channel_credentials(Path(settings.ca).read_bytes())
    except OSError as error:
        raise LoadTestError(f"{settings.ca} cannot be read: {error.strerror or error}") from None


def _plain(message: Any) -> dict[str, Any]:
    """A message as plain data; 64-bit numbers as numbers."""
    found = MessageToDict(message, preserving_proto_field_name=True)
    for one in (*found.get("inputs", ()), *found.get("outputs", ())):
        one["shape"] = [int(size) for size in one.get("shape", ())]
    return dict(found)
