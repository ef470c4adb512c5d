"""The protocol's gRPC calls as methods of a deployment, behind Ray's gRPC proxies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import RequestError, TooLargeError
from opau_onnx.serve.ray.settings import SERVICER
from opau_onnx.serve.rpc.errors import status
from opau_onnx.serve.rpc.methods import SERVICE, Methods


class Ended(Exception):  # noqa: N818 - not an error
    """The call has its status."""


class Details(NamedTuple):
    """As ``grpc.HandlerCallDetails``."""

    method: str
    invocation_metadata: Any


class Context:
    """A call's context for our handlers, made of Ray's.

    Args:
        context: a ``RayServegRPCContext``. It tells no deadline; gRPC cancels the call when that has passed.
        limit: bytes of a message.
        messages: of a stream.

    Attributes:
        answers: to a stream; None after the last.
    """

    def __init__(self, context: Any, limit: int, messages: AsyncIterator[Any] | None = None) -> None:
        self._context, self._limit, self._messages = context, limit, messages
        self._callbacks: list[Callable[[Any], None]] = []
        self.responses: asyncio.Queue[Any] = asyncio.Queue(1)

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    def time_remaining(self) -> None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def done(self) -> None:
        """The call has ended."""
        for callback in self._callbacks:
            callback(self)

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Ray sends metadata only after the response."""
        self._context.set_trailing_metadata(list(metadata))

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.end(code, details)
        raise Ended

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """The status that the call ends with."""
        self._context.set_code(code)
        self._context.set_details(details)

    def checked(self, message: Any) -> bytes:
        """The bytes of a message.

        Raises:
            TooLargeError: there are more than allowed; Ray's own limit is 2 GiB.
            RequestError: Ray has decoded it already.
        """
        if not isinstance(message, bytes):
            raise RequestError(f"Ray's grpc_servicer_functions must be {SERVICER}, which leaves messages as bytes")
        if len(message) > self._limit:
            raise TooLargeError(f"the request has {len(message)} bytes; this server takes {self._limit}")
        return message

    async def read(self) -> Any:
        message = None if self._messages is None else await anext(self._messages, None)
        return grpc.aio.EOF if message is None else self.checked(message)

    async def write(self, message: Any) -> None:
        await self.responses.put(message)


class Calls:
    """Answers the calls that Ray hands over.

    Args:
        methods: the handlers, which a server without Ray has too.
        max_request_bytes: of a message.
    """

    def __init__(self, methods: Methods, max_request_bytes: int) -> None:
        self._methods, self._limit = methods, max_request_bytes

    async def unary(self, method: Any, message: Any, ray_context: Any) -> Any:
        """The response to a message; an empty one where the context tells of an error."""
        context = Context(ray_context, self._limit)
        found = await _ended(self._unary(method, message, context), context)
        # An error that is raised comes to the client as well, but Ray writes two tracebacks into its log for each.
        return getattr(pb, method.output_type.name)() if found is None else found

    async def _unary(self, method: Any, message: Any, context: Context) -> Any:
        handler = self._handler(method, context)
        if handler.unary_unary is None:  # it refuses
            return await handler.stream_stream(None, context)
        return await handler.unary_unary(context.checked(message), context)

    async def stream(self, method: Any, messages: AsyncIterator[Any], ray_context: Any) -> AsyncIterator[Any]:
        """The responses to a stream of messages."""
        context = Context(ray_context, self._limit, messages)
        task = asyncio.get_running_loop().create_task(self._stream(method, context))
        try:
            while (response := await context.responses.get()) is not None:
                yield response
            await task
        finally:
            task.cancel()

    async def _stream(self, method: Any, context: Context) -> None:
        try:
            await _ended(self._handler(method, context).stream_stream(None, context), context)
        finally:
            await context.responses.put(None)

    def _handler(self, method: Any, context: Context) -> Any:
        return self._methods.service(Details(f"/{SERVICE.full_name}/{method.name}", context.invocation_metadata()))


async def _ended(answering: Any, context: Context) -> Any:
    """The response; None where the call ended with an error, which the context then tells."""
    try:
        return await answering
    except RequestError as error:
        context.end(*status(error))
    except Ended:
        pass
    finally:
        context.done()
    return None


def add_servicer(servicer: Any, server: Any) -> None:
    """Tell a gRPC server of the protocol's calls, as generated code does, but leave their messages bytes.

    Ray's own proxy pickles the messages that it hands on, and those of tritonclient cannot be pickled. HAProxy hands on bytes,
    but while replicas are being replaced it falls back on Ray's.
    """
    handlers = {}
    for method in SERVICE.methods:
        make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = make(getattr(servicer, method.name))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))


class Protocol:
    """A deployment's methods, by the names of the protocol's calls; Ray's proxies call them."""

    _calls: Calls


def _unary(method: Any) -> Any:
    async def call(self: Protocol, request: Any, grpc_context: Any) -> Any:
        return await self._calls.unary(method, request, grpc_context)

    return call


def _stream(method: Any) -> Any:
    async def call(self: Protocol, requests: Any, grpc_context: Any) -> AsyncIterator[Any]:
        async for response in self._calls.stream(method, requests, grpc_context):
            yield response

    return call


for _method in SERVICE.methods:
    setattr(Protocol, _method.name, (_stream if _method.client_streaming else _unary)(_method))
