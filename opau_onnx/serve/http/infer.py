"""``POST /v2/models/NAME/infer``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from opau_onnx.protocol.errors import CancelledError, InvalidRequestError, RequestError, TooLargeError
from opau_onnx.serve.http.bodies import ASIDE, WINDOWS, Disconnected, Headers, compressed, headers_of, read_body, respond
from opau_onnx.serve.http.codec import Decoded, decode, decode_raw, encode
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.service import Request, Response, Service

HEADER_LENGTH = b"inference-header-content-length"
WATCH_AFTER = 0.01
"""Seconds of waiting after which it is watched whether the client goes away: most responses are faster than that."""


@dataclass(slots=True)
class Asked:
    """Request data known before decoding, and progress up to the service."""

    model: str
    version: str
    headers: Headers
    started: int
    id: str = ""
    submitted: bool = False

    @classmethod
    def of(cls, scope: Scope) -> Asked:
        """Data from its address and headers."""
        parameters = scope["path_params"]
        return cls(parameters["model"], parameters.get("version", ""), headers_of(scope), time.perf_counter_ns())


class Infer:
    """An ASGI application: the shortest way from a request to its response."""

    def __init__(self, service: Service, observer: Observer) -> None:
        self._service, self._observer = service, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a RequestError goes to the caller."""
        asked = Asked.of(scope)
        try:
            response, content, size, encoding = await self._response(asked, receive)
        except Disconnected:
            self._tell(asked, CancelledError("the client went away"))
            return
        except RequestError as error:
            if not asked.submitted:  # the service counts what was submitted to it
                self._service.refuse(asked.model, error.kind, asked.started)
            self._tell(asked, error)
            raise
        extra = [] if size is None else [(HEADER_LENGTH, b"%d" % size)]
        if encoding is not None:
            extra.append((b"content-encoding", encoding))
        await respond(send, 200, b"application/json" if size is None else b"application/octet-stream", content, *extra)
        self._tell(asked, response)

    async def _response(self, asked: Asked, receive: Receive) -> tuple[Response, bytes, int | None, bytes | None]:
        """(The response, its body, bytes of the body's JSON where tensors follow it, the body's Content-Encoding)."""
        size = _json_size(asked.headers)
        with self._service.held() as held:
            body = await read_body(receive, asked.headers, self._service, held, json=size is None)
            decoded = await self._decoded(asked, body, size)
            asked.id = decoded.id
            del body
            held.settle(sum(array.nbytes for array in decoded.inputs.values()))
            request = Request(
                asked.model, asked.version, decoded.inputs, decoded.outputs, decoded.timeout_us, asked.started, decoded.classes
            )
            asked.submitted = True
            with _Watch(receive):
                response = await self._service.infer(request)
            if _is_cheap(response, decoded, asked.headers):
                return response, *_encoded(response, decoded, asked.headers)
            return response, *await self._service.aside(_encoded, response, decoded, asked.headers)

    def _tell(self, asked: Asked, outcome: Response | RequestError) -> None:
        self._observer.ended("http", asked.headers, asked.model, asked.version, asked.started, outcome, asked.id)

    async def _decoded(self, asked: Asked, body: bytes, size: int | None) -> Decoded:
        """The request in a body whose JSON has ``size`` bytes; None: all of it is JSON."""
        if size == 0:
            return decode_raw(body, self._service.repository.get(asked.model, asked.version).inputs)
        found = len(body) if size is None else size
        limit = self._service.settings.server.max_json_bytes
        if found > limit:
            raise TooLargeError(f"the request's JSON has {found} bytes; this server takes {limit} (max_json_bytes)")
        return decode(body, size) if found <= ASIDE else await self._service.aside(decode, body, size)


def _json_size(headers: Headers) -> int | None:
    """Bytes of the JSON before binary tensors; None where there are none."""
    value = headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not value.isdigit() or len(value) >= 20:
        raise InvalidRequestError(
            f"Inference-Header-Content-Length is {value.decode('latin-1')[:40]!r}; expected a number of bytes"
        )
    return int(value)


def _is_cheap(response: Response, request: Decoded, headers: Headers) -> bool:
    """True where the body of a response is made so fast that the event loop can do it."""
    if headers.get(b"accept-encoding", b"").strip().lower() in WINDOWS:
        return sum(array.nbytes for array in response.arrays.values()) <= ASIDE
    plain = (s.name for s in response.outputs if not request.binary.get(s.name, request.binary_default))
    return sum(response.arrays[name].size for name in plain) <= ASIDE // 8


def _encoded(response: Response, request: Decoded, headers: Headers) -> tuple[bytes, int | None, bytes | None]:
    content, size = encode(response, request)
    content, encoding = compressed(content, headers)
    return content, size, encoding


class _Watch:
    """Within it, what is awaited is cancelled once the client goes away; then it raises Disconnected."""

    __slots__ = ("_gone", "_loop", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive, self._gone = receive, False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(WATCH_AFTER, self._begin)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            assert self._task is not None
            self._task.uncancel()
            raise Disconnected from None

    def _begin(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        assert self._task is not None
        self._task.cancel()
