"""uvicorn's HTTP protocol, with limits on what a client may send before its request is read, and responses in one packet."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from opau_onnx.serve.http.messages import Failure

logger = logging.getLogger("opau_onnx.serve")
AT_ONCE = 65536
"""Bytes that are not held back."""
HEAD_BYTES, HEAD_FIELDS = 32 * 1024, 100
"""Of a request's address and headers."""
FRAMING = 8
"""Bytes around a byte of a chunked body, at most; what is beyond that, and beyond HEAD_BYTES, is no body but an attack."""
HEAD_SECONDS = 10.0
"""In which the head of a request must arrive, from the connection or from its first byte on."""
DROP_SECONDS = 2.0
"""For which the rest of a refused request is dropped."""
STATUS = {408: b"408 Request Timeout", 431: b"431 Request Header Fields Too Large", 503: b"503 Service Unavailable"}


@dataclass
class Limits:
    """Shared by the connections of a server.

    Attributes:
        connections: at the same time.
        head_seconds: for the head of a request.
        body_seconds: for the rest of it.
        send_seconds: after which a client that has read nothing of its response is given up.
        silent: connections that have not yet sent a whole head, oldest first.
        refused: connections since the last log line.
    """

    connections: int
    head_seconds: float = HEAD_SECONDS
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    silent: dict[Protocol, None] = field(default_factory=dict)
    refused: int = 0

    def report(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count a connection that was refused or given up; one log line a second says how many."""
        if not self.refused:
            loop.call_later(1.0, self._log)
        self.refused += 1

    def _log(self) -> None:
        fields = {"refused": self.refused, "limit": self.connections}
        logger.warning("too many HTTP connections: some were refused (max_connections)", extra={"fields": fields})
        self.refused = 0


class Protocol(HttpToolsProtocol):
    """As uvicorn's, which has no limits, and writes the head of a response and its body by two system calls: each wakes the
    client, and on a small answer they are what takes longest.

    Args:
        limits: of the server.
        more: of uvicorn's protocol.
    """

    def __init__(self, limits: Limits, **more: Any) -> None:
        super().__init__(**more)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._in_head, self._fed, self._body, self._head, self._refused = True, 0, 0, 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`. If there are too many, the oldest that never sent a request makes room."""
        super().connection_made(Gathering(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self._limits.connections:
            self._limits.report(self.loop)
            oldest = next(iter(self._limits.silent), None)
            if oldest is None:
                self._refuse(503, "this server has as many connections as it takes; try again later", at_once=True)
                return
            oldest._end()
        self._limits.silent[self] = None
        self._wait(self._limits.head_seconds, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._limits.silent.pop(self, None)
        self._wait(0.0, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._refused:
            return
        if self._in_head and self._timer is None:
            self._wait(self._limits.head_seconds, self._late)
        self._fed += len(data)
        super().data_received(data)
        if not self._refused and self._fed - self._body > HEAD_BYTES + FRAMING * self._body:
            self._refuse(431, f"the request's head, or what stands around its body, is larger than {HEAD_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools' callback, also for the trailers of a chunked body, which nobody reads."""
        self._head += len(name) + len(value)
        if len(self.headers) >= HEAD_FIELDS or self._head > HEAD_BYTES:
            self._refuse(431, f"the request has more than {HEAD_FIELDS} headers, or {HEAD_BYTES} bytes of them")
        elif self._in_head:
            super().on_header(name, value)

    def on_url(self, url: bytes) -> None:
        """httptools' callback."""
        self._head += len(url)
        super().on_url(url)

    def on_headers_complete(self) -> None:
        """httptools' callback."""
        if self._head > HEAD_BYTES:
            self._refuse(431, f"the request's address and headers have more than {HEAD_BYTES} bytes")
        if self._refused:
            return
        self._in_head, self._body = False, self._fed  # this read may hold a part of the body, whose size is not known here
        self._limits.silent.pop(self, None)
        self._wait(self._limits.body_seconds, self._end)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """httptools' callback."""
        self._body += len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """httptools' callback."""
        if self._refused:
            return
        self._in_head, self._fed, self._body, self._head = True, 0, 0, 0
        self._wait(0.0, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """uvicorn's callback: the response is written, but the client may take long to read it, or for ever."""
        super().on_response_complete()
        if self.transport.unsent:  # type: ignore[attr-defined]
            self.loop.call_later(self._limits.send_seconds, self._check_sent, self.transport.unsent)  # type: ignore[attr-defined]

    def _wait(self, seconds: float, then: Any) -> None:
        """Set the only timer of what is arriving, or none."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if then is None else self.loop.call_later(seconds, then)

    def _late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(408, f"no request arrived within {self._limits.head_seconds:g} seconds")
        else:  # a request that was pipelined behind one that is being answered
            self._wait(self._limits.head_seconds, self._late)

    def _refuse(self, status: int, reason: str, *, at_once: bool = False) -> None:
        """Answer without the application, and end the connection; where a response is due already, just end it.

        Unless ``at_once``, what the client still sends is dropped for a while: closing earlier would reset the connection, and
        the client would not see the response.
        """
        if self._refused:
            return
        self._refused = True
        self._limits.silent.pop(self, None)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        content = msgspec.json.encode(Failure(reason))
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (STATUS[status], len(content)) + content)
        if at_once:
            self.transport.close()
        self._wait(DROP_SECONDS, self.transport.abort)

    def _check_sent(self, before: int) -> None:
        """End a connection whose client has read nothing for a while."""
        unsent = self.transport.unsent  # type: ignore[attr-defined]
        if unsent >= before:
            self.transport.abort()
        elif unsent:
            self.loop.call_later(self._limits.send_seconds, self._check_sent, unsent)

    def _end(self) -> None:
        self._refused = True
        self._limits.silent.pop(self, None)
        self.transport.abort()


class Gathering:
    """A transport that writes at the end of the event loop's turn what was written in it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken yet."""
        return sum(map(len, self._held)) + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write soon; at once where it is much."""
        if len(data) >= AT_ONCE:
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)
