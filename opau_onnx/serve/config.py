"""Settings of a server and of its models: the one list of them, from which files and flags are read."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from opau_onnx.errors import LoadError

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=-1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
"""Of a model: it is part of addresses."""
DEFAULT_MAX_BATCH_SIZE = 32
TOKEN_FILES = ("token_file", "metrics_token_file", "admin_token_file")


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model is served.

    Attributes:
        path: the .onnx file.
        version: what the protocol calls its version.
        device: "auto" (CUDA where it can run), "cpu" or "cuda".
        library: whether the compiled op library runs the learned activations: "auto", "yes", "no", or its path.
        max_batch_size: rows that are run at once; 0: each request alone; None: 32 where the model takes any number of rows.
        max_batch_delay_us: how long a request waits for others, in microseconds, while a worker is free.
        batch_check: before batching, find out whether a row's result depends on the other rows.
        instances: workers, 1024 at most; 0: one for each core on the CPU, one on a GPU.
        threads: of onnxruntime within a run on the CPU.
        buckets: row counts that are warmed up, and to which CUDA graphs pad; None: powers of 2.
        cuda_graph: record a CUDA graph for each bucket.
        max_queue: requests that may wait; more are refused.
        input_shapes: sizes for the warm-up where axes other than the first are open, by input.
        load: load it when the server starts.
    """

    path: str
    version: str = "1"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    library: str = "auto"
    max_batch_size: Count | None = None
    max_batch_delay_us: Count = 500
    batch_check: bool = True
    instances: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    threads: Positive = 1
    buckets: tuple[Positive, ...] | None = None
    cuda_graph: bool = False
    max_queue: Positive = 1024
    input_shapes: dict[str, tuple[Positive, ...]] = {}
    load: bool = True


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server listens, what it refuses, and what it tells.

    Attributes:
        host: the address; 127.0.0.1 is reached from this machine only.
        http_port, grpc_port: 0: any free one; -1: not served.
        tls_cert, tls_key: PEM files; both or none.
        tls_client_ca: PEM file of the authority whose clients are let in; None: clients need no certificate.
        token_file: a file whose first line clients must send as their bearer token.
        metrics_token_file, admin_token_file: likewise for the metrics, and for loading and unloading models; None: token_file.
        model_control: clients may load and unload models; also where admin_token_file is given.
        cors_origins: of web pages that may use the HTTP endpoints, e.g. https://example.org.
        max_request_bytes: of a request's body, before and after decompression.
        max_connections: of each protocol at the same time; fewer where the process may not open so many files.
        max_json_bytes: of a request's JSON, and of typed contents over gRPC: reading them takes far longer than binary tensors.
        max_pending_bytes: of all requests that are read or wait.
        request_timeout_s: after this, a response is an error.
        drain_timeout_s: how long accepted requests may take after SIGTERM.
        log_format, log_level: of the lines on standard error.
        otlp_endpoint: where OpenTelemetry traces go, e.g. http://127.0.0.1:4318; None: nowhere.
    """

    host: str = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    token_file: str | None = None
    metrics_token_file: str | None = None
    admin_token_file: str | None = None
    model_control: bool = False
    cors_origins: tuple[str, ...] = ()
    max_request_bytes: Positive = 64 * 2**20
    max_connections: Positive = 4096
    max_json_bytes: Positive = 2 * 2**20
    max_pending_bytes: Positive = 2**30
    request_timeout_s: Seconds = 30.0
    drain_timeout_s: Seconds = 30.0
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server and its models by name."""

    server: ServerSettings = ServerSettings()
    models: dict[str, ModelSettings] = {}


def settings(
    paths: list[Path], file: Path | None = None, *, server: dict[str, Any] | None = None, models: dict[str, Any] | None = None
) -> Settings:
    """Settings from a TOML file, model files and flags; flags win.

    Args:
        paths: model files, each named by its stem.
        file: tables ``[server]`` and ``[models.NAME]``; a relative path in it starts at its folder.
        server, models: flags that were given, of the server and of every model.

    Raises:
        LoadError: a file cannot be read, or a setting is unknown or out of range; the message says which.
    """
    raw: dict[str, Any] = _read(file) if file is not None else {}
    base = file.parent if file is not None else Path()
    named: dict[str, Any] = {**raw.get("models", {})}
    for name, table in named.items():
        if isinstance(table, dict) and isinstance(table.get("path"), str):
            named[name] = {**table, "path": str(base / table["path"])}
    for path in paths:
        if path.stem in named:
            raise LoadError(f"two models are called {path.stem!r}; rename a file, or name them in a configuration file")
        named[path.stem] = {"path": str(path)}
    whole = {
        **raw,
        "server": {**_rooted(raw.get("server", {}), base), **(server or {})},
        "models": {name: {**table, **(models or {})} if isinstance(table, dict) else table for name, table in named.items()},
    }
    return check(whole, str(file) if file is not None else "the options")


def check(raw: dict[str, Any], where: str = "the settings") -> Settings:
    """Settings from plain data.

    Raises:
        LoadError: they are none.
    """
    try:
        found = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise LoadError(f"{where}: {error}") from None
    for name in found.models:
        if not NAME.fullmatch(name):
            raise LoadError(f"{where}: {name!r} cannot name a model; use letters, digits, '_', '-' and '.'")
    if (found.server.tls_cert is None) != (found.server.tls_key is None):
        raise LoadError(f"{where}: TLS needs both tls_cert and tls_key")
    if found.server.tls_client_ca is not None and found.server.tls_cert is None:
        raise LoadError(f"{where}: tls_client_ca needs tls_cert and tls_key")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise LoadError(f"{file} is not TOML: {error}") from None


def _rooted(server: Any, base: Path) -> dict[str, Any]:
    """The server's table, with its files looked for beside the configuration file."""
    if not isinstance(server, dict):
        return {"server": server}
    files = ("tls_cert", "tls_key", "tls_client_ca", *TOKEN_FILES)
    return {k: str(base / v) if k in files and isinstance(v, str) else v for k, v in server.items()}


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group (Linux)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores
