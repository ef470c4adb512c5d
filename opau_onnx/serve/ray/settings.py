"""The arguments of the application: one flat table, as a Serve config file or the command line of ``serve run`` gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from opau_onnx.errors import DeviceError, LoadError
from opau_onnx.serve.config import (
    DEFAULT_MAX_BATCH_SIZE,
    TOKEN_FILES,
    Count,
    ModelSettings,
    Positive,
    ServerSettings,
    Settings,
    check,
)

DEPLOYMENT = "OpauServe"
PROXIES = ("host", "http_port", "grpc_port", "tls_cert", "tls_key", "tls_client_ca", "max_connections")
"""Settings of a server that are Ray's proxies' here, not the application's."""
SERVICER = "opau_onnx.serve.ray.add_servicer"
"""For ``grpc_servicer_functions``: what Ray's gRPC proxies understand."""
ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A request may run twice without harm, so one whose replica died before it answered goes to another replica.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Of every process of a cluster, unless the user set them. HAProxy is five to nine times faster than Ray's own proxy."""
CONSTRUCTOR_RETRIES = 2
"""Starts of a replica that fail before Ray gives it up: a file that cannot be read is not mended by trying again."""
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 15.0
RETRY_AFTER_S = 1.0


class RaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Ray runs the copies of the server.

    Attributes:
        replicas: how many; None: 1, where they don't scale.
        min_replicas, max_replicas: between which Ray scales by load; without a largest number it does not.
        target_ongoing_requests: of a replica, which scaling aims at; None: its largest batch.
        num_cpus: reserved for each replica; on the CPU it has as many workers unless ``instances`` says how many.
        num_gpus: reserved for each replica; 0.5: two of them on one GPU.
        max_ongoing_requests: that a replica has at once; None: what its queues hold and its batches run, so that the queues
            decide, which know deadlines and refuse at once.
        max_queued_requests: that wait beyond those; more are refused with 429 or RESOURCE_EXHAUSTED.
    """

    replicas: Positive | None = None
    min_replicas: Positive = 1
    max_replicas: Positive | None = None
    target_ongoing_requests: float | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_ongoing_requests: Positive | None = None
    max_queued_requests: Count = 1024


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of the application."""

    settings: Settings
    ray: RaySettings


def arguments(args: Mapping[str, Any]) -> Arguments:
    """Settings from the application's arguments.

    Args:
        args: ``models``: paths or tables of :class:`~opau_onnx.serve.config.ModelSettings` by name; each of that class's
            settings, for all models whose table does not have it; the settings of
            :class:`~opau_onnx.serve.config.ServerSettings` but for :data:`PROXIES`; those of :class:`RaySettings`. The command
            line gives strings: numbers and JSON are read from them.

    Raises:
        LoadError: one is unknown, out of range, or contradicts another.
    """
    given = {name: _decoded(name, value) for name, value in args.items()}
    models = given.pop("models", None)
    if not isinstance(models, dict) or not models:
        raise LoadError('models is missing or no table; expected names and files, e.g. models=\'{"lenet": "/lenet.onnx"}\'')
    parts = _sorted(given)
    tables = {name: _table(name, found, parts[ModelSettings]) for name, found in models.items()}
    server = {name: _absolute(value) if name in TOKEN_FILES else value for name, value in parts[ServerSettings].items()}
    raw = {"settings": {"server": server, "models": tables}, "ray": parts[RaySettings]}
    try:
        found = msgspec.convert(raw, Arguments, strict=False)
    except msgspec.ValidationError as error:
        raise LoadError(f"the application's arguments: {error}") from None
    check(msgspec.to_builtins(found.settings), "the application's arguments")
    for name, model in found.settings.models.items():
        if not model.load:
            raise LoadError(f"model {name!r} has load = false, but replicas load no model later; leave it out")
    _consistent(found.ray)
    return found


def _decoded(name: str, value: Any) -> Any:
    """An argument of the command line that is JSON, decoded; all others as they are."""
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise LoadError(f"{name} is {value!r}, which is not JSON: {error}") from None


def _sorted(given: Mapping[str, Any]) -> dict[type[msgspec.Struct], dict[str, Any]]:
    """The arguments by the class that they are settings of."""
    parts: dict[type[msgspec.Struct], dict[str, Any]] = {ModelSettings: {}, ServerSettings: {}, RaySettings: {}}
    for name, value in given.items():
        if name in PROXIES:
            raise LoadError(f"{name} is not the application's: Ray's proxies listen, as http_options and grpc_options say")
        kind = next((kind for kind in parts if name in kind.__struct_fields__), None)
        if kind is None or name == "path":
            raise LoadError(f"unknown argument {name!r}; expected models, or {', '.join(_names(parts))}")
        parts[kind][name] = value
    return parts


def _names(kinds: Mapping[type[msgspec.Struct], Any]) -> list[str]:
    known = {name for kind in kinds for name in kind.__struct_fields__}
    return sorted(known - {"path", *PROXIES})


def _table(name: str, found: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one model; what its own table says wins."""
    own = {"path": found} if isinstance(found, str) else found
    if not isinstance(own, dict) or not isinstance(own.get("path"), str):
        raise LoadError(f"model {name!r} is {found!r}; expected the path of its file, or a table with it")
    return {**shared, **own, "path": _absolute(own["path"])}


def _absolute(path: Any) -> Any:
    """Replicas run in other folders than the one the application is started from."""
    return str(Path(path).absolute()) if isinstance(path, str) else path


def _consistent(found: RaySettings) -> None:
    if found.max_replicas is None:
        if found.target_ongoing_requests is not None or found.min_replicas != 1:
            raise LoadError("min_replicas and target_ongoing_requests are for scaling; give max_replicas too")
    elif found.replicas is not None:
        raise LoadError("replicas and max_replicas exclude each other: either a fixed number, or scaling")
    elif found.min_replicas > found.max_replicas:
        raise LoadError(f"min_replicas is {found.min_replicas}, more than max_replicas, {found.max_replicas}")
    if found.target_ongoing_requests is not None and found.target_ongoing_requests <= 0:
        raise LoadError(f"target_ongoing_requests is {found.target_ongoing_requests:g}; expected more than 0")
    if found.num_cpus < 0 or found.num_gpus < 0:
        raise LoadError("num_cpus and num_gpus must not be negative")
    if found.num_gpus > 1 and found.num_gpus != int(found.num_gpus):
        raise LoadError(f"num_gpus is {found.num_gpus:g}; Ray reserves whole GPUs, or a part of one")


def deployment_options(found: Arguments) -> dict[str, Any]:
    """Arguments of ``ray.serve.deployment``; a config file's ``deployments`` may override them."""
    settings, ray = found.settings, found.ray
    limit = ray.max_ongoing_requests or sum(model.max_queue + _largest(model) for model in settings.models.values())
    return {
        "name": DEPLOYMENT,
        **_scale(found),
        "ray_actor_options": {"num_cpus": ray.num_cpus, "num_gpus": ray.num_gpus},
        "max_ongoing_requests": limit,
        "max_queued_requests": ray.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        "graceful_shutdown_timeout_s": settings.server.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.1,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": CONSTRUCTOR_RETRIES,
        "logging_config": {"enable_access_log": settings.server.log_level == "debug"},
    }


def _largest(model: ModelSettings) -> int:
    return DEFAULT_MAX_BATCH_SIZE if model.max_batch_size is None else max(1, model.max_batch_size)


def _scale(found: Arguments) -> dict[str, Any]:
    ray = found.ray
    if ray.max_replicas is None:
        return {"num_replicas": ray.replicas or 1}
    target = ray.target_ongoing_requests or max(_largest(model) for model in found.settings.models.values())
    bounds = {"min_replicas": ray.min_replicas, "max_replicas": ray.max_replicas}
    return {"autoscaling_config": {**bounds, "target_ongoing_requests": target}}


def on_replica(settings: Settings, cpus: float, gpus: int) -> Settings:
    """Settings for what Ray reserved for a replica.

    Args:
        settings: as they were given.
        cpus: reserved.
        gpus: how many GPUs the replica may use, wholly or in part.

    Raises:
        DeviceError: a model asks for CUDA and Ray reserved no GPU.
    """
    return msgspec.structs.replace(
        settings, models={name: _reserved(name, model, cpus, gpus) for name, model in settings.models.items()}
    )


def _reserved(name: str, model: ModelSettings, cpus: float, gpus: int) -> ModelSettings:
    if gpus:
        return model  # its workers are one a GPU, unless it says more
    if model.device == "cuda":
        raise DeviceError(f"model {name!r} asks for CUDA, but Ray reserved no GPU for this replica; set num_gpus")
    # Without a reservation a GPU belongs to others, and so do the machine's other cores.
    return msgspec.structs.replace(model, device="cpu", instances=model.instances or max(1, int(cpus) // model.threads))
