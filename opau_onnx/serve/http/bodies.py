"""Reading the bodies of HTTP requests within the limits, and sending answers."""

from __future__ import annotations

import asyncio
import zlib
from functools import partial

from starlette.types import Message, Receive, Scope, Send

from opau_onnx.protocol.errors import DeadlineError, InvalidRequestError, TooLargeError
from opau_onnx.serve.service import Held, Service

Headers = dict[bytes, bytes]
WINDOWS = {b"gzip": 31, b"deflate": 15}
"""zlib's wbits."""
ASIDE = 32 * 1024
"""Bytes of JSON, or of a compressed body, above which they are worked on in a thread."""
RATIO, RATIO_FREE = 100, 2**20
"""A body may grow to so many times its size when it is decompressed, and to so many bytes in any case."""


class Disconnected(Exception):  # noqa: N818 - not an error
    """The client went away."""


def announced(headers: Headers) -> int | None:
    """The body's size as the client says; None where it does not."""
    value = headers.get(b"content-length")
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None


async def read_body(receive: Receive, headers: Headers, service: Service, held: Held, *, json: bool = False) -> bytes:
    """The body, decompressed; its bytes are counted as they arrive.

    Args:
        receive: of the ASGI application.
        headers: of the request.
        service: its settings are the limits.
        held: counts the bytes.
        json: all of it is JSON, for which there is a limit of its own.

    Raises:
        TooLargeError: it is larger than allowed, before or after decompression.
        QueueFullError: too many bytes are pending.
        DeadlineError: it takes too long to arrive.
        InvalidRequestError: it cannot be decompressed.
        Disconnected: the client went away.
    """
    limits = service.settings.server
    limit = min(limits.max_request_bytes, limits.max_json_bytes) if json else limits.max_request_bytes
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding != b"identity" and encoding not in WINDOWS:
        raise InvalidRequestError(f"Content-Encoding is {encoding.decode('latin-1')!r}; expected gzip or deflate")
    if (size := announced(headers)) is not None and size > limit:
        raise _too_large(f"the request has {size} bytes", limit, json)
    try:
        async with asyncio.timeout(limits.request_timeout_s):
            body = await _arrived(receive, held, limit, json)
    except TimeoutError:
        raise DeadlineError("the request took too long to arrive") from None
    if encoding == b"identity":
        return body
    return await _decompressed(body, encoding, limit, json, service, held)


async def _arrived(receive: Receive, held: Held, limit: int, json: bool) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        held.add(len(parts[-1]))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(f"the request has more than {limit} bytes", limit, json)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(what: str, limit: int, json: bool) -> TooLargeError:
    if json:
        return TooLargeError(f"{what}; this server takes {limit} bytes of JSON (max_json_bytes): send tensors as binary data")
    return TooLargeError(f"{what}; this server takes {limit}")


async def _decompressed(body: bytes, encoding: bytes, limit: int, json: bool, service: Service, held: Held) -> bytes:
    """The body decompressed in a thread; the most that it may become is counted meanwhile."""
    most = min(limit, max(RATIO_FREE, RATIO * len(body)))
    held.add(most)
    work = partial(_inflated, body, encoding, most)
    whole = await service.aside(work) if max(len(body), most) > ASIDE else work()
    if len(whole) > most:
        if most < limit:
            raise TooLargeError(f"the body grows to more than {RATIO} times its size when decompressed; send it uncompressed")
        raise _too_large(f"the decompressed request has more than {limit} bytes", limit, json)
    held.settle(len(whole))
    return whole


def _inflated(body: bytes, encoding: bytes, most: int) -> bytes:
    """At most ``most + 1`` bytes."""
    decompressor = zlib.decompressobj(WINDOWS[encoding])
    try:
        whole = decompressor.decompress(body, most + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body cannot be decompressed: {error}") from None
    if len(whole) <= most and not decompressor.eof:
        raise InvalidRequestError("the compressed body ends too early")
    return whole


def compressed(body: bytes, headers: Headers) -> tuple[bytes, bytes | None]:
    """(the body, its Content-Encoding): compressed only where the client takes nothing but one encoding.

    Most HTTP libraries offer several without being asked; compressing floating-point numbers for them would cost far more time
    than it saves.
    """
    wanted = headers.get(b"accept-encoding", b"").strip().lower()
    if wanted not in WINDOWS:
        return body, None
    compressor = zlib.compressobj(wbits=WINDOWS[wanted])
    return compressor.compress(body) + compressor.flush(), wanted


async def respond(send: Send, status: int, content_type: bytes, body: bytes, *extra: tuple[bytes, bytes]) -> None:
    """Send a response."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def headers_of(scope: Scope) -> Headers:
    """The headers by name in lower case; of one that is repeated, the last."""
    return dict(scope["headers"])
