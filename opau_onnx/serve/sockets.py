"""Addresses on which the servers listen."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

from opau_onnx.errors import LoadError

logger = logging.getLogger("opau_onnx.serve")
RESERVED = 128
"""Open files that are no connections: models, libraries, logs."""
BACKLOG = 2048
"""Connections that wait to be accepted."""


def listening(host: str, port: int, option: str) -> socket.socket:
    """A TCP socket that listens, for an event loop.

    Args:
        host, port: the address; port 0 is any free one.
        option: of the command, by which another port is chosen.

    Raises:
        LoadError: the address is taken, or is none of this machine's.
    """
    with _refused(host, port, option):
        made = _bound(host, port)
        try:
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
    made.setblocking(False)
    return made


def check_free(host: str, port: int, option: str) -> None:
    """Raise what :func:`listening` would for an address, for servers that do not say why they cannot listen on it."""
    with _refused(host, port, option):
        _bound(host, port).close()


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def connections(wanted: int) -> int:
    """Connections that each protocol may have: as many as wanted, as far as this process may open files.

    The soft limit of open files is raised, up to the hard one, since servers run out of it first: 1024 is usual.
    """
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**63 if hard == resource.RLIM_INFINITY else hard
    needed = min(2 * wanted + RESERVED, most)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        logger.info("raised the limit of open files", extra={"fields": {"from": soft, "to": needed}})
        soft = needed
    found = wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - RESERVED) // 2))
    if found < wanted:
        fields = {"max_connections": wanted, "connections": found, "open_files": soft}
        logger.warning("fewer connections than max_connections: raise the limit of open files", extra={"fields": fields})
    return found


@contextlib.contextmanager
def _refused(host: str, port: int, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise LoadError(f"cannot listen on {host}, port {port}: {reason}; choose another with {option}") from None
