"""Who is let in: the bearer token and the TLS files, for both protocols; checked before the server starts."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from opau_onnx.errors import LoadError
from opau_onnx.serve.config import ServerSettings

if TYPE_CHECKING:
    import grpc

LONGEST_TOKEN = 4096
"""Bytes: more than that fits no header."""


class Token:
    """The bearer token that every client must send.

    Args:
        file: its first line is the token.

    Raises:
        LoadError: the file cannot be read, or its first line is no token.
    """

    def __init__(self, file: str | Path) -> None:
        try:
            with Path(file).open("rb") as opened:
                line = opened.readline(LONGEST_TOKEN + 1)
        except OSError as error:
            raise LoadError(f"the token file {file} cannot be read: {error.strerror or error}") from None
        token = line.strip()
        if not token:
            raise LoadError(f"the token file {file} is empty; its first line must be the token")
        if len(line) > LONGEST_TOKEN or not all(33 <= byte < 127 for byte in token):
            raise LoadError(
                f"the first line of {file} is no token; expected ASCII letters, digits and signs without spaces,"
                f" {LONGEST_TOKEN} at most"
            )
        self._digest = _digest(token)

    def allows(self, header: str) -> bool:
        """Compare the value of a client's Authorization header with ``Bearer TOKEN``; takes as long whatever differs."""
        scheme, _, token = header.partition(" ")
        same = hmac.compare_digest(_digest(token.strip().encode("utf-8", "replace")), self._digest)
        return same and scheme.lower() == "bearer"


def _digest(token: bytes) -> bytes:
    """Of equal length for all, so that comparing does not tell how long the token is."""
    return hashlib.sha256(token).digest()


def token(settings: ServerSettings) -> Token | None:
    """The token that the settings ask for, None where they ask for none.

    Raises:
        LoadError: its file cannot be read, or holds no token.
    """
    return None if settings.token_file is None else Token(settings.token_file)


def uvicorn_tls(settings: ServerSettings) -> dict[str, Any]:
    """Arguments of ``uvicorn.Config`` for TLS; none where the settings ask for none.

    Raises:
        LoadError: a file cannot be read or used.
    """
    if settings.tls_cert is None:
        return {}
    _check(settings)
    found: dict[str, Any] = {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    if settings.tls_client_ca is not None:
        found |= {"ssl_ca_certs": settings.tls_client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return found


def server_credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """gRPC's credentials for TLS; None where the settings ask for none.

    Raises:
        LoadError: a file cannot be read or used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    import grpc

    _check(settings)  # gRPC itself takes any bytes, and then fails every handshake
    pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
    authority = None if settings.tls_client_ca is None else Path(settings.tls_client_ca).read_bytes()
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _check(settings: ServerSettings) -> None:
    """Check that OpenSSL accepts the files, and that the key is the certificate's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert, key, authority = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    assert cert is not None
    for file in (cert, key, authority):
        if file is not None and not Path(file).is_file():
            raise LoadError(f"the TLS file {file} does not exist")
    try:
        context.load_cert_chain(cert, key, password=_encrypted)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LoadError(f"TLS cannot use the certificate {cert} with the key {key}: {_why(error)}") from None
    try:
        context.load_verify_locations(authority) if authority is not None else None
    except OSError as error:
        raise LoadError(f"TLS cannot use {authority} as the clients' authority: {_why(error)}") from None


def _encrypted() -> NoReturn:
    """Instead of asking for the password at the terminal."""
    raise ValueError("the key is encrypted; give one without a password, in a file that only this server can read")


def _why(error: Exception) -> str:
    """OpenSSL's reason in words, without the place in its source."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error).lower().replace("_", " ")
