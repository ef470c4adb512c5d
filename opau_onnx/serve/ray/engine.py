"""``opau-serve --engine ray``: replicas behind Ray's proxies, from their start to the last response after SIGTERM."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping

import msgspec

from opau_onnx.errors import DeviceError, LoadError
from opau_onnx.serve import logs, security
from opau_onnx.serve.config import ServerSettings, Settings, usable_cores
from opau_onnx.serve.ray.cluster import behind_haproxy, connected, exposed, taken
from opau_onnx.serve.ray.settings import DEPLOYMENT, PROXIES, SERVICER, Arguments, arguments
from opau_onnx.serve.ray.signals import Signals, Stopped

logger = logging.getLogger("opau_onnx.serve")
APPLICATION = "opau"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WATCH_S = 5.0
DRAIN_MARGIN_S = 10.0
TIMEOUT_MARGIN_S = 5.0
"""After which Ray ends a request that it has itself kept waiting; the application has ended all others by then."""
_ALERT = re.compile(r"\[ALERT\].*?: ([^\n]*cannot bind [^\n]*)")
"""HAProxy's lines that say why it ended."""
_OURS = re.compile(r"opau_onnx\.[\w.]+Error: ([^\n]+)")


def serve_here(settings: Settings, replicas: int) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Args:
        settings: of the server and its models. The address and the ports are those of Ray's proxies.
        replicas: copies of the server. On a cluster of its own they share this machine's cores and GPUs; on another each takes
            one core, and one GPU unless all models are for the CPU.

    Raises:
        LoadError: a setting that Ray cannot honour, a port that is taken, or a replica that cannot start.
        DeviceError: CUDA is asked for, and the cluster has no GPU.
    """
    joined = "RAY_ADDRESS" in os.environ
    check(settings.server, probe=not joined)
    logs.configure(settings.server.log_format, settings.server.log_level)
    signals = Signals()
    signals.listen()
    try:
        with connected(signals, joined=joined):
            _serve(settings, replicas, signals, joined=joined)
    except Stopped:
        logger.info("stopped before the models were loaded")
    else:
        logger.info("stopped")


def check(server: ServerSettings, *, probe: bool) -> None:
    """Check that Ray can honour the settings.

    Args:
        server: the settings.
        probe: whether the ports must be free on this machine.

    Raises:
        LoadError: it cannot.
    """
    if server.tls_cert is not None:
        raise LoadError("TLS is not possible with --engine ray: its proxies take plain text; end TLS in a proxy before them")
    if server.http_port < 1:
        raise LoadError(f"--http-port is {server.http_port}; with --engine ray, expected a port: its proxies always serve HTTP")
    if server.grpc_port == 0:
        raise LoadError("--grpc-port is 0; with --engine ray, expected a port, or -1 for no gRPC")
    security.Access(server)  # for its errors, before anything starts
    if probe:
        for name, port in (("--http-port", server.http_port), ("--grpc-port", server.grpc_port)):
            reason = taken(server.host, port) if port > 0 else None
            if reason is not None:
                raise LoadError(f"cannot listen on {server.host}, port {port}: {reason}; choose another with {name}")


def _serve(settings: Settings, replicas: int, signals: Signals, *, joined: bool) -> None:
    import ray

    found = shared_out(settings, replicas, ray.cluster_resources(), joined=joined)
    server = settings.server
    if joined:
        _check_cluster(server.host, len([node for node in ray.nodes() if node["Alive"]]))
    try:
        signals.unless(lambda: _start(server))
        signals.unless(lambda: _deploy(found))
        _tell(server, replicas)
        _watch(signals.stop)
        logger.info("draining: accepted requests are answered, new ones refused")
    finally:
        _withdraw(server.drain_timeout_s, joined=joined)


def shared_out(settings: Settings, replicas: int, resources: Mapping[str, float], *, joined: bool) -> Arguments:
    """The application's arguments, with each replica's part of the cluster.

    Raises:
        DeviceError: CUDA is asked for, and there is no GPU.
    """
    devices = {model.device for model in settings.models.values()}
    gpus = int(resources.get("GPU", 0))
    if "cuda" in devices and not gpus:
        raise DeviceError("device is 'cuda', but the Ray cluster has no GPU")
    cpus = 1.0
    if not joined:
        cores = usable_cores()
        cpus = float(cores // replicas) or math.floor(1e4 * cores / replicas) / 1e4
    on_one = 1 if joined else math.ceil(replicas / gpus) if gpus else 0  # replicas that share a GPU
    server = {name: value for name, value in msgspec.to_builtins(settings.server).items() if name not in PROXIES}
    return arguments(
        {
            "models": msgspec.to_builtins(settings.models),
            **server,
            "replicas": replicas,
            "num_cpus": cpus,
            "num_gpus": 1 / on_one if gpus and devices != {"cpu"} else 0.0,
        }
    )


def _check_cluster(host: str, nodes: int) -> None:
    """Check that the application can be served there.

    Raises:
        LoadError: it cannot.
    """
    from ray import serve

    if serve.status().proxies:
        raise LoadError(
            "Ray Serve runs on this cluster already, with addresses of its own; write a config file (opau-deploy ray) and"
            " deploy it there (serve deploy)"
        )
    if nodes > 1 and host in LOOPBACK:
        raise LoadError(
            f"the cluster has {nodes} machines, and replicas listen where the proxies do: on {host} they cannot be reached from"
            " other machines; use --host 0.0.0.0"
        )


def _start(server: ServerSettings) -> None:
    """Start Serve and its proxies.

    Raises:
        LoadError: they cannot start.
    """
    from ray import serve

    limit = {"request_timeout_s": server.request_timeout_s + TIMEOUT_MARGIN_S}
    grpc_options = {"port": server.grpc_port, "grpc_servicer_functions": [SERVICER], **limit} if server.grpc_port > 0 else None
    try:
        serve.start(
            http_options={"host": server.host, "port": server.http_port, **limit},
            grpc_options=grpc_options,
            logging_config={"log_level": "WARNING"},
        )
    except (RuntimeError, TimeoutError) as error:
        reason = _ALERT.findall(str(error)) or str(error).splitlines()
        raise LoadError(f"Ray's proxies cannot start: {reason[-1]}") from None


def _deploy(found: Arguments) -> None:
    """Start the replicas and wait until all of them serve.

    Raises:
        LoadError: they cannot start.
    """
    from ray import serve

    from opau_onnx.serve.ray.deployment import build

    try:
        serve.run(build(found), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        told = "\n".join([str(error), *_messages()])
        reason = _OURS.findall(told)
        raise LoadError(f"the replicas cannot start: {reason[-1] if reason else told}") from None


def _messages() -> list[str]:
    """Status of the application and its deployment, from Serve."""
    from ray import serve

    found = serve.status().applications.get(APPLICATION)
    return [] if found is None else [found.message, *(deployment.message for deployment in found.deployments.values())]


def _tell(server: ServerSettings, replicas: int) -> None:
    import ray

    for protocol, port in (("http", server.http_port), ("grpc", server.grpc_port)):
        if port > 0:
            logger.info("listening", extra={"fields": {"protocol": protocol, "host": server.host, "port": port}})
    haproxy = ray.get(ray.remote(num_cpus=0)(behind_haproxy).remote())
    proxy = "HAProxy" if haproxy else "Ray's own"
    fields = exposed(haproxy=haproxy, grpc=server.grpc_port > 0)
    logger.warning("Ray listens on every interface at these ports; keep others away by a firewall", extra={"fields": fields})
    logger.info("ready", extra={"fields": {"engine": "ray", "replicas": replicas, "proxy": proxy}})


def _watch(stop: threading.Event) -> None:
    """Tell how the replicas are doing, until the end.

    Raises:
        LoadError: somebody else removed the application.
    """
    from ray import serve
    from ray.exceptions import RayError

    before = None
    while not stop.wait(WATCH_S):
        try:
            found = serve.status().applications.get(APPLICATION)
        except RayError as error:  # its controller is being replaced; the replicas go on meanwhile
            logger.warning("Ray Serve does not answer: %s", error)
            continue
        if found is None:
            raise LoadError("the application was removed from the Ray cluster by somebody else")
        states = dict(found.deployments[DEPLOYMENT].replica_states)
        if before not in (None, states):
            logger.warning("replicas changed", extra={"fields": {"status": str(found.status.value), **states}})
        before = states


def _withdraw(drain_timeout_s: float, *, joined: bool) -> None:
    """Answer what was accepted and end the replicas; on a cluster that is not ours, end Serve too unless others use it now."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    until = time.monotonic() + drain_timeout_s + DRAIN_MARGIN_S
    while True:
        try:
            serve.delete(APPLICATION)  # waits, but for a minute only
            break
        except RayServeException:  # Serve has not been started
            return
        except TimeoutError:
            if time.monotonic() > until:
                logger.warning("replicas did not end within drain_timeout_s")
                break
    if joined and not serve.status().applications:
        serve.shutdown()
