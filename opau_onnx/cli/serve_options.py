"""Options of serving that ``opau-serve`` and ``opau-deploy`` share; None is an option that was not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class _Given:
    def given(self) -> dict[str, Any]:
        """The options that were given, as the settings' tables have them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(_Given):
    """Settings of every model: fields of :class:`opau_onnx.serve.config.ModelSettings`."""

    device: str | None = None
    library: str | None = None
    max_batch_size: int | None = None
    max_batch_delay_us: int | None = None
    instances: int | None = None
    threads: int | None = None
    cuda_graph: bool | None = None
    max_queue: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class ServerOptions(_Given):
    """Settings of the server: fields of :class:`opau_onnx.serve.config.ServerSettings`."""

    host: str | None = None
    http_port: int | None = None
    grpc_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    metrics_token_file: Path | None = None
    admin_token_file: Path | None = None
    model_control: bool | None = None
    max_request_bytes: int | None = None
    max_json_bytes: int | None = None
    max_connections: int | None = None
    request_timeout_s: float | None = None
    drain_timeout_s: float | None = None
    log_format: str | None = None
    log_level: str | None = None
    otlp_endpoint: str | None = None
