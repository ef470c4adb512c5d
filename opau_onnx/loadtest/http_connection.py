"""One HTTP/1.1 connection: bytes are sent, whole answers come back. As little as possible happens for each."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import NamedTuple, Protocol, cast

import httptools

from opau_onnx.loadtest.settings import LoadTestError, Settings, Target
from opau_onnx.loadtest.wire import HEADER_LENGTH, Content

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_FRAMING = (b"content-length", b"transfer-encoding")


class Response(NamedTuple):
    """One answer.

    Attributes:
        status: of HTTP.
        content: the body, and where its JSON ends.
        arrived: by time.perf_counter, when its last bytes were here.
    """

    status: int
    content: Content
    arrived: float


class Owner(Protocol):
    """Who is told what comes over a connection."""

    def answered(self, response: Response) -> None:
        """A whole answer came."""

    def malformed(self, reason: str) -> None:
        """Something came that is not HTTP; the connection is closed."""

    def lost(self, reason: str) -> None:
        """The connection ended; it may have been between two requests."""


class HttpConnection(asyncio.Protocol):
    """A connection and the answer that comes over it.

    Attributes:
        owner: who is told; None: nobody any more.
        usable: whether another request may be sent.
        answers: how many came.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner: Owner | None = owner
        self.usable = False
        self.answers = 0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._begun = False
        self._clear()

    def _clear(self) -> None:
        self._length: bytes | None = None
        self._framed = self._headers = False
        self._parts: list[bytes] = []
        self._whole: list[tuple[int, Content]] = []

    def send(self, message: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._transport.write(message)

    def close(self) -> None:
        """End the connection at once; its owner hears no more of it."""
        self.owner, self.usable = None, False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.usable = cast(asyncio.Transport, transport), True  # uvloop's are none by inheritance
        if self.owner is None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._malformed(str(error))
            return
        if self._whole:
            self._deliver(now)

    def eof_received(self) -> None:
        self.usable = False
        if self._headers and not self._framed:  # HTTP/1.0: the body ends with the connection
            self._whole.append((self._parser.get_status_code(), Content(self._length, b"".join(self._parts))))
            self._deliver(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        owner, self.owner = self.owner, None
        if owner is not None:
            how = "reset" if isinstance(exc, ConnectionError) else f"broken ({exc})" if exc else "closed"
            where = "in the middle of an answer" if self._begun else "without an answer"
            which = "" if self._begun else f", on a {'used' if self.answers else 'new'} connection"
            owner.lost(f"connection {how} {where}{which}")

    def _deliver(self, now: float) -> None:
        whole, self._whole = self._whole, []
        for status, content in whole:
            self.answers += 1
            if self.owner is not None:
                self.owner.answered(Response(status, content, now))
        if not self.usable and self._transport is not None:
            self._transport.close()

    def _malformed(self, reason: str) -> None:
        owner = self.owner
        self.close()
        if owner is not None:
            owner.malformed(f"the answer is not HTTP/1.1: {reason}")

    # What the parser calls.

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
        if status >= 200:  # others announce the answer
            self.usable = self.usable and self._parser.should_keep_alive()
            parts = self._parts
            self._whole.append((status, Content(self._length, parts[0] if len(parts) == 1 else b"".join(parts))))


class Address:
    """Where connections go, and how they are encrypted.

    Raises:
        LoadTestError: the authority's file cannot be used.
    """

    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self._context = tls_context(settings) if target.tls else None

    async def connect(self, owner: Owner) -> HttpConnection:
        """A new connection.

        Raises:
            OSError: it cannot be made; ssl.SSLError is one.
        """
        loop = asyncio.get_running_loop()
        host = self.target.host if self._context is not None else None
        _, connection = await loop.create_connection(
            lambda: HttpConnection(owner), self.target.host, self.target.port, ssl=self._context, server_hostname=host
        )
        return connection


def tls_context(settings: Settings) -> ssl.SSLContext:
    """A context that trusts the system's authorities, or only the one that was given.

    Raises:
        LoadTestError: its file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LoadTestError(f"{settings.ca} cannot be used as a certificate authority: {reason}; expected a PEM file") from None


def unreachable(error: OSError) -> str:
    """Why a connection could not be made, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return str(error.strerror or error)
