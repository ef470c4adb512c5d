"""The connection to a Ray cluster: one that is started on this machine, or the one that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from opau_onnx.errors import LoadError
from opau_onnx.serve.config import usable_cores
from opau_onnx.serve.ray.settings import ENVIRONMENT
from opau_onnx.serve.ray.signals import Signals, Stopped

LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    # Without this the ports of Ray's own processes listen on every interface; a cluster of one machine needs the loopback only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Its only proxy forgets a replica within a second; Ray allows for 30.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
"""Of a cluster that is started for the server. Those of Ray's ports that listen on every interface ask for the token."""
SIDE_PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}
"""That Ray's proxies listen on besides; a second cluster on the machine gets others."""
REPLICAS_GRPC_PORT = "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT", 40000
"""The variable that sets the first port of the replicas for gRPC, and Ray's default."""
ANSWER_S = 10.0
SMALLEST_STORE = 80 * 2**20
"""Bytes of shared memory that Ray wants at least. Behind HAProxy no request passes through it."""


def taken(host: str, port: int) -> str | None:
    """Why a port cannot be listened on."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server((str(address[0]), port), family=family):
            return None
    except OSError as error:
        return str(error.strerror or error)


def _free(port: int) -> int:
    """The port, or any other where it is taken."""
    if taken("0.0.0.0", port) is None:
        return port
    with socket.create_server(("0.0.0.0", 0)) as listener:
        return int(listener.getsockname()[1])


def exposed(*, haproxy: bool, grpc: bool) -> dict[str, str]:
    """Ports that listen on every interface, whatever the host, since Ray lets nobody choose; by what they are.

    Args:
        haproxy: whether HAProxy is in front of the replicas.
        grpc: whether gRPC is served.
    """
    found = {name: os.environ.get(name, str(port)) for name, port in SIDE_PORTS.items()}
    ports = {}
    if haproxy:
        ports["haproxy_metrics"] = found["RAY_SERVE_HAPROXY_METRICS_PORT"]
        ports["haproxy_stats"] = found["RAY_SERVE_HAPROXY_STATS_PORT"]
    if haproxy and grpc:
        ports["fallback_grpc"] = found["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"]
        ports["replicas_grpc"] = f"{os.environ.get(REPLICAS_GRPC_PORT[0], str(REPLICAS_GRPC_PORT[1]))} and up"
    return ports | {"replicas_internal_grpc": "any, one for each replica"}


def _check_answers(address: str) -> None:
    """True where somebody listens there; Ray itself goes on trying for minutes.

    Raises:
        LoadError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal():  # another address is "auto"
        try:
            socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), ANSWER_S).close()
        except OSError as error:
            raise LoadError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error.strerror or error}") from None


@contextlib.contextmanager
def connected(signals: Signals, *, joined: bool) -> Iterator[None]:
    """A connection to a Ray cluster; one that was started for it ends with it."""
    if joined:
        _check_answers(os.environ["RAY_ADDRESS"])
    environment = dict(ENVIRONMENT)
    if sys.platform != "linux":
        environment["RAY_SERVE_ENABLE_HA_PROXY"] = "0"  # Ray brings it for Linux only
    if not joined:
        environment |= LOCAL_ENVIRONMENT
        environment |= {name: str(_free(port)) for name, port in SIDE_PORTS.items() if name not in os.environ}
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    import ray  # it reads the environment
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    own: dict[str, Any] = {"address": "local", "num_cpus": usable_cores(), "include_dashboard": False}
    if os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1":
        own["object_store_memory"] = SMALLEST_STORE
    try:
        with _group():
            ray.init(**({"address": os.environ["RAY_ADDRESS"]} if joined else own), logging_level=logging.WARNING)
    except (SystemExit, SystemError):  # of Ray's own handlers of SIGTERM, which stand in place of ours meanwhile
        if hasattr(signal, "alarm"):
            signal.alarm(0)  # one of them would abort the process in 3 seconds
        raise Stopped from None
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        what = f"the Ray cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']} cannot be used" if joined else "Ray cannot start"
        raise LoadError(f"{what}: {error}") from None
    signals.listen()
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _group() -> Iterator[None]:
    """Give processes started meanwhile a process group of their own.

    Whoever ends a command with a signal to its whole group would otherwise end Ray's processes too, before they have drained.
    """
    if sys.platform == "win32":
        yield
        return
    before = os.getpgrp()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0) as leader:
        with contextlib.suppress(PermissionError):  # of the leader of a session, e.g. in a container: it must stay
            os.setpgid(0, leader.pid)
        try:
            yield
        finally:
            with contextlib.suppress(PermissionError):
                os.setpgid(0, before)


def behind_haproxy() -> bool:
    """True in a process of a cluster that was started with HAProxy."""
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
