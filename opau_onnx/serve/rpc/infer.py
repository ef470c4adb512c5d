"""``ModelInfer`` and ``ModelStreamInfer``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import (
    CancelledError,
    DeadlineError,
    InvalidRequestError,
    RequestError,
    TooLargeError,
    UnavailableError,
)
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.rpc.codec import decode, encode, parse_request
from opau_onnx.serve.rpc.errors import fail, status
from opau_onnx.serve.rpc.gate import Gate
from opau_onnx.serve.rpc.reception import Reception
from opau_onnx.serve.service import Response, Service

if TYPE_CHECKING:
    from opau_onnx.serve.tracing import Tracer

STREAM_DEPTH = 64
"""Requests of one stream that are read before the first of them is answered."""


class Infer:
    """Inference calls; they take bytes, so that a request's size is known.

    Args:
        service: answers.
        gate: counts the calls.
        tracer: records traces; None: there are none.
        reception: how requests are read; None: they are complete when a call begins.

    Attributes:
        reception: likewise.
    """

    def __init__(self, service: Service, gate: Gate, tracer: Tracer | None = None, reception: Reception | None = None) -> None:
        self._service, self._gate, self._observer, self._traced = service, gate, Observer(tracer), tracer is not None
        self._readers: set[asyncio.Task[None]] = set()
        self.reception = reception

    async def call(self, raw: bytes, context: Any) -> Any:
        """Answer one request with a ``ModelInferResponse``."""
        self._gate.enter(context)
        if self.reception is not None:
            self.reception.received(len(raw))
        box = [raw]
        del raw  # an exception that ends the call would keep it
        try:
            return await self._response(box, context)
        except Exception as error:
            await fail(context, error)

    async def call_that_can_end(self, requests: Any, context: Any) -> None:
        """Read one request and answer it; where memory is short while it is read, the call ends."""
        self._gate.enter(context)
        started = time.perf_counter_ns()
        try:
            try:
                box = [await self._only(context)]
            except RequestError as error:
                self._service.refuse("", error.kind, started)
                raise
            await context.write(await self._response(box, context))
        except Exception as error:
            await fail(context, error)

    async def _only(self, context: Any) -> Any:
        """The request of a call that has one."""
        limit = self._service.settings.server.request_timeout_s
        try:
            async with asyncio.timeout(limit):
                raw = await self._next(context)
        except TimeoutError:
            raise DeadlineError(
                f"deadline exceeded: the request was not complete after {limit:g} s (request_timeout_s)"
            ) from None
        if raw is grpc.aio.EOF:
            raise InvalidRequestError("the call ended without a request")
        return raw

    async def _next(self, context: Any) -> Any:
        """The next request of a call, or gRPC's end of a stream."""
        return await (context.read() if self.reception is None else self.reception.read(context))

    async def stream(self, requests: Any, context: Any) -> None:
        """Answer the requests of a stream, in their order; many of them are in the queue at the same time."""
        self._gate.enter(context)
        responses: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(STREAM_DEPTH)
        running: set[asyncio.Task[Any]] = set()
        reader = asyncio.get_running_loop().create_task(self._read(context, responses, slots, running))
        self._readers.add(reader)
        if self._gate.closed:
            reader.cancel()
        try:
            while (task := await responses.get()) is not None:
                await context.write(await task)
                slots.release()
            await asyncio.wait([reader])
        finally:
            self._readers.discard(reader)
            for task in (reader, *running):
                task.cancel()
        if reader.cancelled():
            await fail(context, UnavailableError("the server is shutting down; what it had read was answered"))
        reader.result()

    def end_streams(self) -> None:
        """Read no more, once the gate is closed; what was read is answered."""
        for reader in self._readers:
            reader.cancel()

    async def _read(
        self,
        context: Any,
        responses: asyncio.Queue[asyncio.Task[Any] | None],
        slots: asyncio.Semaphore,
        running: set[asyncio.Task[Any]],
    ) -> None:
        try:
            while True:
                await slots.acquire()
                raw = await self._next(context)
                if raw is grpc.aio.EOF:
                    return
                task = asyncio.get_running_loop().create_task(self._streamed(raw, context))
                running.add(task)
                task.add_done_callback(running.discard)
                responses.put_nowait(task)
        finally:
            responses.put_nowait(None)

    async def _streamed(self, raw: bytes, context: Any) -> Any:
        """The ``ModelStreamInferResponse`` to a request; an error ends that request alone."""
        try:
            response = await self._response([raw], context)
            response.parameters["triton_final_response"].bool_param = True  # each request has one response
            return pb.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            code, message = status(error)
            return pb.ModelStreamInferResponse(error_message=f"[{code.name}] {message}")

    async def _response(self, raw: list[bytes], context: Any) -> Any:
        """The response to the message in a list of one, which is taken out of it."""
        started = time.perf_counter_ns()
        message = request = None
        limit = self._service.settings.server.max_json_bytes
        try:
            with self._service.held() as held:
                held.add(len(raw[0]))
                whole, tensors = parse_request(raw.pop(), limit)
                message = pb.ModelInferRequest(model_name=whole.model_name, model_version=whole.model_version, id=whole.id)
                _check_typed(whole, limit)
                request = decode(whole, tensors, _remaining_us(context), started)
                del whole, tensors  # while it waits, only its tensors are kept, which may look into its bytes
                response = await self._service.infer(request)
                encoded = encode(response, message.id)
        except RequestError as error:
            if request is None:  # the service counts what was submitted to it
                self._service.refuse(message.model_name if message is not None else "", error.kind, started)
            self._tell(context, message, started, error)
            raise
        except asyncio.CancelledError:
            self._tell(context, message, started, CancelledError("the client went away"))
            raise
        self._tell(context, message, started, response)
        return encoded

    def _tell(self, context: Any, message: Any, started: int, outcome: Response | RequestError) -> None:
        about = message if message is not None else pb.ModelInferRequest()
        metadata = dict(context.invocation_metadata()) if self._traced else {}
        self._observer.ended("grpc", metadata, about.model_name, about.model_version, started, outcome, about.id)


def _check_typed(message: Any, limit: int) -> None:
    """Check the size of typed contents, which take as long to read as JSON does.

    Raises:
        TooLargeError: they are larger than allowed.
    """
    size = sum(tensor.contents.ByteSize() for tensor in message.inputs)
    if size > limit:
        raise TooLargeError(
            f"the typed contents have {size} bytes; this server takes {limit} (max_json_bytes): send raw_input_contents"
        )


def _remaining_us(context: Any) -> int | None:
    """How long the call may still take, in microseconds; None where its client set no deadline."""
    seconds = context.time_remaining()
    return None if seconds is None else int(seconds * 1e6)
