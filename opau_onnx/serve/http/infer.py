"""``POST /v2/models/NAME/infer``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from opau_onnx.protocol.errors import CancelledError, InvalidRequestError, RequestError
from opau_onnx.serve.http.bodies import Disconnected, Headers, compressed, headers_of, read_body, respond, room
from opau_onnx.serve.http.codec import Decoded, decode, decode_raw, encode
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.service import Answer, Request, Service

HEADER_LENGTH = b"inference-header-content-length"
WATCH_AFTER = 0.01
"""Seconds of waiting after which it is watched whether the client goes away: most answers are faster than that."""


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
    """An ASGI application: the shortest way from a request to its answer."""

    def __init__(self, service: Service, observer: Observer) -> None:
        self._service, self._observer = service, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a RequestError goes to the caller."""
        asked = Asked.of(scope)
        try:
            answer, content, size = await self._answer(asked, receive)
        except Disconnected:
            self._tell(asked, CancelledError("the client went away"))
            return
        except RequestError as error:
            if not asked.submitted:  # the service counts what was submitted to it
                self._service.refuse(asked.model, error.kind, asked.started)
            self._tell(asked, error)
            raise
        extra = [] if size is None else [(HEADER_LENGTH, b"%d" % size)]
        content, encoding = compressed(content, asked.headers)
        if encoding is not None:
            extra.append((b"content-encoding", encoding))
        await respond(send, 200, b"application/json" if size is None else b"application/octet-stream", content, *extra)
        self._tell(asked, answer)

    async def _answer(self, asked: Asked, receive: Receive) -> tuple[Answer, bytes, int | None]:
        """(The answer, its body, bytes of the body's JSON where tensors follow it)."""
        with room(self._service, asked.headers):
            body = await read_body(receive, asked.headers, self._service)
            decoded = self._decode(asked.model, asked.version, body, asked.headers)
            asked.id = decoded.id
            request = Request(asked.model, asked.version, decoded.inputs, decoded.outputs, decoded.timeout_us, asked.started)
            asked.submitted = True
            with _Watch(receive):
                answer = await self._service.infer(request)
            return answer, *encode(answer, decoded)

    def _tell(self, asked: Asked, outcome: Answer | RequestError) -> None:
        self._observer.ended("http", asked.headers, asked.model, asked.version, asked.started, outcome, asked.id)

    def _decode(self, name: str, version: str, body: bytes, headers: Headers) -> Decoded:
        value = headers.get(HEADER_LENGTH)
        if value is None:
            return decode(body, None)
        if not value.isdigit():
            raise InvalidRequestError(f"Inference-Header-Content-Length is {value.decode('latin-1')!r}; expected a number")
        if int(value) == 0:
            return decode_raw(body, self._service.repository.get(name, version).inputs)
        return decode(body, int(value))


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
