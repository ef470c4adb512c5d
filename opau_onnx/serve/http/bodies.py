"""Reading the bodies of HTTP requests within the limits, and sending answers."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import Message, Receive, Scope, Send

from opau_onnx.protocol.errors import DeadlineError, InvalidRequestError, TooLargeError
from opau_onnx.serve.service import Held, Service

Headers = dict[bytes, bytes]
_WINDOW = {b"gzip": 31, b"deflate": 15}
"""zlib's wbits."""


class Disconnected(Exception):  # noqa: N818 - not an error
    """The client went away."""


def room(service: Service, headers: Headers) -> Held:
    """Within it, the body's bytes are counted.

    Raises:
        TooLargeError: the request is larger than allowed.
        QueueFullError: too many requests are pending.
    """
    limit = service.settings.server.max_request_bytes
    size = announced(headers)
    if size is not None and size > limit:
        raise TooLargeError(f"the request has {size} bytes; this server takes {limit}")
    return service.held(limit if size is None else size)


def announced(headers: Headers) -> int | None:
    """The body's size as the client says; None where it does not."""
    value = headers.get(b"content-length")
    return int(value) if value is not None and value.isdigit() else None


async def read_body(receive: Receive, headers: Headers, service: Service) -> bytes:
    """The body, decompressed.

    Raises:
        TooLargeError: it is larger than allowed, before or after decompression.
        DeadlineError: it takes too long to arrive.
        InvalidRequestError: it cannot be decompressed.
        Disconnected: the client went away.
    """
    limit = service.settings.server.max_request_bytes
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise Disconnected
    if message.get("more_body"):
        try:
            async with asyncio.timeout(service.settings.server.request_timeout_s):
                body = await _rest(receive, body, limit)
        except TimeoutError:
            raise DeadlineError("the request took too long to arrive") from None
    encoding = headers.get(b"content-encoding", b"identity").lower()
    return body if encoding == b"identity" else _decompressed(body, encoding, limit)


async def _rest(receive: Receive, first: bytes, limit: int) -> bytes:
    parts, size = [first], len(first)
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLargeError(f"the request has more than {limit} bytes, which is the most that this server takes")
        more = message.get("more_body", False)
    return b"".join(parts)


def _decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding not in _WINDOW:
        raise InvalidRequestError(f"Content-Encoding is {encoding.decode('latin-1')!r}; expected gzip or deflate")
    decompressor = zlib.decompressobj(_WINDOW[encoding])
    try:
        whole = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body cannot be decompressed: {error}") from None
    if len(whole) > limit:
        raise TooLargeError(f"the decompressed request has more than {limit} bytes, which is the most that this server takes")
    if not decompressor.eof:
        raise InvalidRequestError("the compressed body ends too early")
    return whole


def compressed(body: bytes, headers: Headers) -> tuple[bytes, bytes | None]:
    """(the body, its Content-Encoding): compressed only where the client takes nothing but one encoding.

    Most HTTP libraries offer several without being asked; compressing floating-point numbers for them would cost far more time
    than it saves.
    """
    wanted = headers.get(b"accept-encoding", b"").strip().lower()
    if wanted not in _WINDOW:
        return body, None
    compressor = zlib.compressobj(wbits=_WINDOW[wanted])
    return compressor.compress(body) + compressor.flush(), wanted


async def respond(send: Send, status: int, content_type: bytes, body: bytes, *extra: tuple[bytes, bytes]) -> None:
    """Send an answer."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def headers_of(scope: Scope) -> Headers:
    """The headers by name in lower case; of one that is repeated, the last."""
    return dict(scope["headers"])
