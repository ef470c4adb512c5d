"""Who is let in, by both protocols: bearer tokens and origins of web pages; TLS is in :mod:`opau_onnx.serve.tls`."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from pathlib import Path
from typing import Literal

from opau_onnx.errors import LoadError
from opau_onnx.protocol.errors import ForbiddenError, UnauthenticatedError
from opau_onnx.serve.config import ServerSettings

logger = logging.getLogger("opau_onnx.serve")
Area = Literal["inference", "metrics", "admin"]
LOOK_SECONDS = 1.0
"""Between two looks whether a file has changed."""
LONGEST_TOKEN = 4096
"""Bytes: more than that fits no header."""


class Token:
    """A bearer token that clients must send. A file that changes is read again; one that holds no token then is not taken over.

    Args:
        file: its first line is the token.

    Raises:
        LoadError: the file cannot be read, or its first line is no token.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)
        self._seen = self._stamp()
        self._digest = _digest(_first_line(self._file))
        self._looked = time.monotonic()

    def allows(self, header: str) -> bool:
        """Compare the value of a client's Authorization header with ``Bearer TOKEN``; takes as long whatever differs."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._look()
        scheme, _, token = header.partition(" ")
        same = hmac.compare_digest(_digest(token.strip().encode("utf-8", "replace")), self._digest)
        return same and scheme.lower() == "bearer"

    def _look(self) -> None:
        """Read the file again where it has changed."""
        self._looked = time.monotonic()
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._digest = _digest(_first_line(self._file))
            logger.info("token file read again", extra={"fields": {"file": str(self._file)}})
        except LoadError as error:
            logger.error("the token stays as it was: %s", error)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _first_line(file: Path) -> bytes:
    """The token in a file.

    Raises:
        LoadError: there is none.
    """
    try:
        with file.open("rb") as opened:
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
    return token


def _digest(token: bytes) -> bytes:
    """Of equal length for all, so that comparing does not tell how long the token is."""
    return hashlib.sha256(token).digest()


class Access:
    """Who may do what: inference and metadata, metrics, and loading and unloading models.

    Args:
        settings: of the server.

    Raises:
        LoadError: a token's file cannot be read, or holds no token.
    """

    def __init__(self, settings: ServerSettings) -> None:
        infer = _token(settings.token_file)
        self._tokens: dict[Area, Token | None] = {
            "inference": infer,
            "metrics": _token(settings.metrics_token_file) or infer,
            "admin": _token(settings.admin_token_file) or infer,
        }
        self._control = settings.model_control or settings.admin_token_file is not None
        self._origins = frozenset(settings.cors_origins)

    def check(self, area: Area, authorization: str | None) -> None:
        """Let a client in, or not.

        Args:
            area: what it wants.
            authorization: the value of its Authorization header, None without one.

        Raises:
            UnauthenticatedError: the area's token is missing or wrong.
            ForbiddenError: models are not loaded and unloaded by clients.
        """
        token = self._tokens[area]
        if token is not None and (authorization is None or not token.allows(authorization)):
            which = "this server's token" if area == "inference" else f"this server's token for {area}"
            raise UnauthenticatedError(f"send the header (over gRPC: metadata) 'authorization: Bearer TOKEN' with {which}")
        if area == "admin" and not self._control:
            raise ForbiddenError(
                "clients of this server may not load or unload models; start it with --model-control or --admin-token-file"
            )

    def check_origin(self, host: str, origin: str | None, site: str | None) -> None:
        """Refuse what a web page of another origin makes a browser send, which needs no token where the server has none.

        Args:
            host: the request's Host header.
            origin: its Origin header, None without one.
            site: its Sec-Fetch-Site header, None without one.

        Raises:
            ForbiddenError: it comes from another origin, which ``cors_origins`` does not list.
        """
        if origin in self._origins:
            return
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign or (site is not None and site not in ("same-origin", "none")):
            raise ForbiddenError(f"a web page of {origin or 'another origin'} may not load or unload models; see cors_origins")


def _token(file: str | None) -> Token | None:
    return None if file is None else Token(file)
