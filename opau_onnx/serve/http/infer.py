"""``POST /v2/models/NAME/infer``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive, Scope, Send

from opau_onnx.serve.failures import InvalidRequestError, RequestError
from opau_onnx.serve.http.bodies import Disconnected, Headers, compressed, headers_of, read_body, respond, room
from opau_onnx.serve.http.codec import Decoded, decode, decode_raw, encode
from opau_onnx.serve.service import Request, Service

HEADER_LENGTH = b"inference-header-content-length"
WATCH_AFTER = 0.01
"""Seconds of waiting after which it is watched whether the client goes away: most answers are faster than that."""


class Infer:
    """An ASGI application: the shortest way from a request to its answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a RequestError goes to the caller."""
        started = time.perf_counter_ns()
        headers = headers_of(scope)
        name = scope["path_params"]["model"]
        version = scope["path_params"].get("version", "")
        submitted = False
        try:
            with room(self._service, headers):
                body = await read_body(receive, headers, self._service)
                decoded = self._decode(name, version, body, headers)
                request = Request(name, version, decoded.inputs, decoded.outputs, decoded.timeout_us, started)
                submitted = True
                with _watched(receive):
                    answer = await self._service.infer(request)
                content, size = encode(answer, decoded)
        except Disconnected:
            return
        except RequestError as error:
            if not submitted:  # the service counts what was submitted to it
                self._service.refuse(name, error.kind, started)
            raise
        extra = [] if size is None else [(HEADER_LENGTH, b"%d" % size)]
        content, encoding = compressed(content, headers)
        if encoding is not None:
            extra.append((b"content-encoding", encoding))
        await respond(send, 200, b"application/json" if size is None else b"application/octet-stream", content, *extra)

    def _decode(self, name: str, version: str, body: bytes, headers: Headers) -> Decoded:
        value = headers.get(HEADER_LENGTH)
        if value is None:
            return decode(body, None)
        if not value.isdigit():
            raise InvalidRequestError(f"Inference-Header-Content-Length is {value.decode('latin-1')!r}; expected a number")
        if int(value) == 0:
            return decode_raw(body, self._service.repository.get(name, version).inputs)
        return decode(body, int(value))


@contextmanager
def _watched(receive: Receive) -> Iterator[None]:
    """Cancel what is awaited once the client goes away; raises Disconnected then."""
    task = asyncio.current_task()
    assert task is not None
    gone = False
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = asyncio.get_running_loop().create_task(watch())

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER, begin)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise Disconnected from None
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
