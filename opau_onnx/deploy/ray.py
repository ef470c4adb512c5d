"""``deploy_ray``: a config file with which Ray Serve runs the server on many machines."""

from __future__ import annotations

import importlib.util
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from opau_onnx._version import __version__
from opau_onnx.errors import DeployError
from opau_onnx.graph import coverage as models
from opau_onnx.io.atomic import replacing
from opau_onnx.serve.config import DEFAULT_MAX_BATCH_SIZE, settings
from opau_onnx.serve.ray.settings import DEPLOYMENT, ENVIRONMENT, SERVICER

IMPORT_PATH = "opau_onnx.serve.ray:app"
_HEADER = """\
# Written by opau-deploy {version}. With opau-onnx[ray] installed on every machine:
#
{exports}
#   ray get-auth-token --generate  # once; then the same ~/.ray/auth_token on every machine, which Ray's own ports ask for
#   ray start --head               # and `ray start --address=HEAD:6379` on the others, with the same variables
#   serve deploy {name}
#
# On one machine, without `ray start`: `serve run {name}` with the same variables. On several machines http_options.host has
# to be 0.0.0.0 (--host 0.0.0.0): a proxy hands requests to the replicas of all machines, and they listen where it does.
# The models have to lie at the paths below on every machine. Replicas listen for gRPC on every interface, from port 40000 on;
# only a token_file among the args keeps strangers out there.
"""


@dataclass(frozen=True)
class Options:
    """How Ray is to serve.

    Attributes:
        device: "cpu" or "cuda"; None: "cuda" where GPUs are reserved. Not "auto": a replica must not take a GPU that Ray did
            not reserve for it.
        serving: further settings of every model, by the names of :class:`opau_onnx.serve.config.ModelSettings`.
        replicas: how many; None: 1, where they don't scale.
        autoscale: the fewest and the most replicas, by load.
        target_ongoing_requests: for each replica, what Ray scales for; None: the largest batch.
        num_cpus: reserved for each replica, which on the CPU has as many workers unless ``serving`` has "instances".
        num_gpus: reserved for each replica; None: 1 on the device "cuda". Parts of one are possible.
        max_ongoing_requests: that a replica has at once; None: what its queues hold, which then refuse the rest.
        max_queued_requests: that wait for a replica at each proxy; more are refused. None: as the application says.
        host: where the HTTP proxies listen.
        http_port, grpc_port: of the proxies.
        models_path: the folder with the models on Ray's machines; None: where they lie here.
        name: of the application.
    """

    device: str | None = None
    serving: Mapping[str, Any] = field(default_factory=dict)
    replicas: int | None = None
    autoscale: tuple[int, int] | None = None
    target_ongoing_requests: float | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None
    max_ongoing_requests: int | None = None
    max_queued_requests: int | None = None
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 9000
    models_path: str | None = None
    name: str = "opau"


@dataclass(frozen=True)
class Result:
    """Result: files written.

    Attributes:
        path: the file.
        config: what it holds.
        checked: what it was checked with, in words.
    """

    path: Path
    config: dict[str, Any]
    checked: str


def deploy_ray(model_files: Sequence[str | Path], output: str | Path, options: Options | None = None) -> Result:
    """Write a config file of Ray Serve, for ``serve deploy`` and ``serve run``.

    Args:
        model_files: .onnx files; each is served under its name without .onnx.
        output: the .yaml file.
        options: how they are served.

    Raises:
        DeployError: the options contradict each other, or Ray would refuse the file.
        LoadError: a setting of the models is unknown or out of range, or two models have one name.
        OSError: a file cannot be read or written.
    """
    output, options = Path(output), options or Options()
    if importlib.util.find_spec("yaml") is None:
        raise DeployError("PyYAML, which comes with Ray, is not installed: pip install 'opau-onnx[ray]'")
    import yaml

    variables = {**ENVIRONMENT, "RAY_AUTH_MODE": "token"}
    exports = "\n".join(f"#   export {name}={shlex.quote(value)}" for name, value in variables.items())
    header = _HEADER.format(version=__version__, exports=exports, name=output.name.encode("unicode_escape").decode())
    text = header + yaml.safe_dump(ray_config(model_files, options), sort_keys=False, width=128)
    config = yaml.safe_load(text)
    checked = _checked(config)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Result(output, config, checked)


def ray_config(model_files: Sequence[str | Path], options: Options) -> dict[str, Any]:
    """Content of the file; Ray is not needed for it.

    Raises:
        DeployError, LoadError, OSError: as :func:`deploy_ray`.
    """
    device, gpus = _reserved(options)
    serving = {**options.serving, "device": device}
    if serving.get("cuda_graph") and device != "cuda":
        raise DeployError("cuda_graph is given for the device 'cpu'; choose 'cuda'")
    paths = [Path(file) for file in model_files]
    found = settings(paths, models=serving)
    for path in paths:
        _readable(path)
    limits = {"max_ongoing_requests": options.max_ongoing_requests, "max_queued_requests": options.max_queued_requests}
    deployment = {
        "name": DEPLOYMENT,
        **_scale(options, serving),
        **{name: limit for name, limit in limits.items() if limit is not None},
        "ray_actor_options": {"num_cpus": options.num_cpus, "num_gpus": gpus},
    }
    application = {
        "name": options.name,
        "route_prefix": "/",  # with HAProxy in front, gRPC needs it
        "import_path": IMPORT_PATH,
        "args": {"models": {name: _there(Path(m.path), options) for name, m in found.models.items()}, **serving},
        "deployments": [deployment],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": options.host, "port": options.http_port},
        "grpc_options": {"port": options.grpc_port, "grpc_servicer_functions": [SERVICER]},
        "applications": [application],
    }


def _reserved(options: Options) -> tuple[str, float]:
    """The device, and GPUs for each replica."""
    device = options.device or ("cuda" if options.num_gpus else "cpu")
    if device not in ("cpu", "cuda"):
        raise DeployError(f"device is {device!r}; expected 'cpu' or 'cuda': Ray has to know what it reserves")
    gpus = options.num_gpus if options.num_gpus is not None else float(device == "cuda")
    if (device == "cuda") != (gpus > 0):
        raise DeployError(f"device is {device!r} and num_gpus is {gpus:g}; expected 'cuda' with GPUs, or 'cpu' without")
    if gpus > 1 and gpus != int(gpus):
        raise DeployError(f"num_gpus is {gpus:g}; Ray reserves whole GPUs, or a part of one")
    return device, gpus


def _scale(options: Options, serving: Mapping[str, Any]) -> dict[str, Any]:
    if options.autoscale is None:
        if options.target_ongoing_requests is not None:
            raise DeployError("target_ongoing_requests is what Ray scales for; give autoscale (--autoscale 1:4) too")
        return {"num_replicas": 1 if options.replicas is None else options.replicas}
    if options.replicas is not None:
        raise DeployError("replicas and autoscale exclude each other")
    fewest, most = options.autoscale
    target = options.target_ongoing_requests or serving.get("max_batch_size") or DEFAULT_MAX_BATCH_SIZE
    if options.max_ongoing_requests is not None and target > options.max_ongoing_requests:
        raise DeployError(
            f"target_ongoing_requests is {target:g}, more than max_ongoing_requests, {options.max_ongoing_requests}"
        )
    return {"autoscaling_config": {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": target}}


def _readable(path: Path) -> None:
    try:
        models.read(path)
    except (ValueError, OSError) as error:  # SpecError is a ValueError
        raise DeployError(f"{path} cannot be served: {error}") from None


def _there(path: Path, options: Options) -> str:
    if options.models_path is None:
        return path.resolve().as_posix()
    if not PurePosixPath(options.models_path).is_absolute():
        raise DeployError(f"models_path is {options.models_path!r}; expected an absolute path on Ray's machines")
    return str(PurePosixPath(options.models_path) / path.name)


def _checked(config: dict[str, Any]) -> str:
    """Compare with Ray's own schema, where Ray is installed.

    Raises:
        DeployError: Ray would refuse the file, or ignore a part of it.
    """
    if importlib.util.find_spec("ray") is None:
        return "not checked with Ray's schema: Ray is not installed here"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of its own definitions
        import ray
        from pydantic import ValidationError
        from ray.serve.config import AutoscalingConfig
        from ray.serve.schema import ServeDeploySchema

    try:
        schema = ServeDeploySchema.model_validate(config)
        for deployment in (d for application in config["applications"] for d in application["deployments"]):
            AutoscalingConfig(**deployment.get("autoscaling_config", {}))  # the schema takes any table here
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DeployError(f"Ray {ray.__version__} refuses this config: {wrong}") from None
    if schema.model_dump(mode="json", exclude_unset=True) != config:  # it ignores names that it does not know
        raise DeployError(f"Ray {ray.__version__} does not read the whole config; it needs another version of Ray")
    return f"checked with the schema of Ray {ray.__version__}"
