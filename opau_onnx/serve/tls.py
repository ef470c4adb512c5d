"""TLS of both protocols: files that are checked before the server starts, and read again when they change."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from opau_onnx.errors import LoadError
from opau_onnx.serve.config import ServerSettings

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger("opau_onnx.serve")
LOOK_SECONDS = 1.0
"""Between two looks whether a file has changed."""
Stamp = tuple[tuple[int, int, int] | None, ...]


class Material(NamedTuple):
    """What the files held when they were read together.

    Attributes:
        context: of the ssl module, with certificate, key and the clients' authority.
        pair: key and certificate, PEM.
        authority: of the clients, PEM; None: clients need no certificate.
    """

    context: ssl.SSLContext
    pair: tuple[bytes, bytes]
    authority: bytes | None


class Files:
    """The server's certificate, key and clients' authority; new connections get what the files hold now.

    Files are looked at when a client connects, once a second at most. Where new ones cannot be used, or the key is not yet the
    certificate's, what was read before stays in use, and the log says so.

    Args:
        cert, key: PEM files.
        authority: PEM file of the authority whose clients are let in; None: clients need no certificate.

    Raises:
        LoadError: a file cannot be read or used.
    """

    def __init__(self, cert: str, key: str, authority: str | None = None) -> None:
        self._cert, self._key, self._authority = cert, key, authority
        self._lock = threading.Lock()  # gRPC asks on threads of its own
        self._seen = self._stamp()
        self._material = self._read()
        self._looked = time.monotonic()

    @classmethod
    def of(cls, settings: ServerSettings) -> Files | None:
        """Those of the settings; None where they ask for no TLS.

        Raises:
            LoadError: a file cannot be read or used.
        """
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def current(self) -> Material:
        """What the files hold, or held when they could last be used."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            return self._material

    def uvicorn(self) -> dict[str, Any]:
        """Arguments of ``uvicorn.Config``; :meth:`follow` belongs to them."""
        found: dict[str, Any] = {"ssl_certfile": self._cert, "ssl_keyfile": self._key}
        if self._authority is not None:
            found |= {"ssl_ca_certs": self._authority, "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return found

    def follow(self, context: ssl.SSLContext) -> None:
        """Let a server's context use :meth:`current` for each new connection."""

        def change(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, old: ssl.SSLContext) -> None:
            connection.context = self.current().context

        context.sni_callback = change  # called for clients that name no server too
        if self._authority is not None:
            # A resumed session shows no certificate again, also when its authority is gone. TLS 1.3: no ticket, no resumption;
            # TLS 1.2 has OpenSSL's cache of sessions besides, which Python cannot switch off.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0

    def grpc(self) -> grpc.ServerCredentials:
        """gRPC's credentials, which ask for the files' content at each handshake."""
        import grpc

        def configuration(material: Material) -> Any:
            return grpc.ssl_server_certificate_configuration([material.pair], material.authority)

        given = self.current()

        def fetch() -> Any:
            nonlocal given
            material = self.current()
            if material is given:
                return None  # unchanged
            given = material
            return configuration(material)

        return grpc.dynamic_ssl_server_credentials(configuration(given), fetch, self._authority is not None)

    def _look(self) -> None:
        """Read the files again where one has changed."""
        self._looked = time.monotonic()
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        fields = {"cert": self._cert, "key": self._key, **({} if self._authority is None else {"client_ca": self._authority})}
        try:
            self._material = self._read()
            logger.info("TLS files read again", extra={"fields": fields})
        except LoadError as error:
            logger.error("TLS stays as it was: %s", error)

    def _stamp(self) -> Stamp:
        found: list[tuple[int, int, int] | None] = []
        for file in (self._cert, self._key, self._authority):
            try:
                one = None if file is None else Path(file).stat()
            except OSError:
                one = None
            found.append(one and (one.st_mtime_ns, one.st_ino, one.st_size))
        return tuple(found)

    def _read(self) -> Material:
        """Check that OpenSSL accepts the files, and that the key is the certificate's: gRPC itself takes any bytes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for file in (self._cert, self._key, self._authority):
            if file is not None and not Path(file).is_file():
                raise LoadError(f"the TLS file {file} does not exist")
        try:
            context.load_cert_chain(self._cert, self._key, password=_encrypted)
            pair = Path(self._key).read_bytes(), Path(self._cert).read_bytes()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise LoadError(f"TLS cannot use the certificate {self._cert} with the key {self._key}: {_reason(error)}") from None
        if self._authority is None:
            return Material(context, pair, None)
        try:
            context.load_verify_locations(self._authority)
            authority = Path(self._authority).read_bytes()
        except OSError as error:
            raise LoadError(f"TLS cannot use {self._authority} as the clients' authority: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        return Material(context, pair, authority)


def _encrypted() -> NoReturn:
    """Instead of asking for the password at the terminal."""
    raise ValueError("the key is encrypted; give one without a password, in a file that only this server can read")


def _reason(error: Exception) -> str:
    """OpenSSL's reason in words, without the place in its source."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error).lower().replace("_", " ")
