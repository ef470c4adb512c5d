"""One HTTP/1.1 connection, with as little work per response as possible."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import NamedTuple, Protocol, cast

import httptools

from opau_onnx.loadtest.config import LoadTestConfig, LoadTestError, Target
from opau_onnx.loadtest.wire import HEADER_LENGTH, Content

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_FRAMING = (b"content-length", b"transfer-encoding")


class HttpResponse(NamedTuple):
    """One response.

    Attributes:
        status: of HTTP.
        content: the body and the length of its JSON.
        arrived: time.perf_counter when its last bytes arrived.
    """

    status: int
    content: Content
    arrived: float


class Listener(Protocol):
    """Receiver of a connection's events."""

    def on_response(self, response: HttpResponse) -> None:
        """A complete response arrived."""

    def on_malformed(self, reason: str) -> None:
        """Bytes arrived that are not HTTP; the connection is closed."""

    def on_lost(self, reason: str) -> None:
        """The connection ended, possibly between two requests."""


class HttpConnection(asyncio.Protocol):
    """A connection and the response that arrives on it.

    Attributes:
        listener: of its events; None: detached.
        usable: True while another request may be sent.
        responses: number that arrived.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener: Listener | None = listener
        self.usable = False
        self.responses = 0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._begun = False
        self._clear()

    def _clear(self) -> None:
        self._length: bytes | None = None
        self._framed = self._headers = False
        self._parts: list[bytes] = []
        self._complete: list[tuple[int, Content]] = []

    def send(self, message: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._transport.write(message)

    def close(self) -> None:
        """End the connection at once; its listener gets no more events."""
        self.listener, self.usable = None, False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.usable = cast(asyncio.Transport, transport), True  # uvloop's are none by inheritance
        if self.listener is None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._malformed(str(error))
            return
        if self._complete:
            self._deliver(now)

    def eof_received(self) -> None:
        self.usable = False
        if self._headers and not self._framed:  # HTTP/1.0: the body ends with the connection
            self._complete.append((self._parser.get_status_code(), Content(self._length, b"".join(self._parts))))
            self._deliver(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        listener, self.listener = self.listener, None
        if listener is not None:
            how = "reset" if isinstance(exc, ConnectionError) else f"broken ({exc})" if exc else "closed"
            where = "in the middle of a response" if self._begun else "without a response"
            which = "" if self._begun else f", on a {'used' if self.responses else 'new'} connection"
            listener.on_lost(f"connection {how} {where}{which}")

    def _deliver(self, now: float) -> None:
        whole, self._complete = self._complete, []
        for status, content in whole:
            self.responses += 1
            if self.listener is not None:
                self.listener.on_response(HttpResponse(status, content, now))
        if not self.usable and self._transport is not None:
            self._transport.close()

    def _malformed(self, reason: str) -> None:
        listener = self.listener
        self.close()
        if listener is not None:
            listener.on_malformed(f"the response is not HTTP/1.1: {reason}")

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        self._length, self._framed, self._headers, self._parts = None, False, False, []

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == _HEADER_LENGTH:
            self._length = value
        elif lower in _FRAMING:
            self._framed = True

    def on_headers_complete(self) -> None:
        self._headers = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._begun = self._headers = False
        if status >= 200:  # 1xx precede the response
            self.usable = self.usable and self._parser.should_keep_alive()
            parts = self._parts
            self._complete.append((status, Content(self._length, parts[0] if len(parts) == 1 else b"".join(parts))))


class Address:
    """Address and TLS context of new connections.

    Raises:
        LoadTestError: the certificate authority's file cannot be used.
    """

    def __init__(self, target: Target, settings: LoadTestConfig) -> None:
        self.target = target
        self._context = tls_context(settings) if target.tls else None

    async def connect(self, listener: Listener) -> HttpConnection:
        """A new connection.

        Raises:
            OSError: it cannot be made; ssl.SSLError is one.
        """
        loop = asyncio.get_running_loop()
        host = self.target.host if self._context is not None else None
        _, connection = await loop.create_connection(
            lambda: HttpConnection(listener), self.target.host, self.target.port, ssl=self._context, server_hostname=host
        )
        return connection


def tls_context(settings: LoadTestConfig) -> ssl.SSLContext:
    """A context that trusts the system's authorities, or only the one that was given.

    Raises:
        LoadTestError: its file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LoadTestError(f"{settings.ca} cannot be used as a certificate authority: {reason}; expected a PEM file") from None


def connection_error(error: OSError) -> str:
    """Message of a failed connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return str(error.strerror or error)
