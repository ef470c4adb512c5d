"""``opau-serve``: ONNX files behind the Open Inference Protocol."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import EQUAL, fail
from opau_onnx.cli.options import InputShape, Version, input_shapes, shapes_of_file

_STYLE: Any = "rich" if sys.stdout.isatty() else None
app = typer.Typer(add_completion=False, rich_markup_mode=_STYLE, pretty_exceptions_enable=False)
_BATCHING, _LIMITS, _ENDPOINTS = "Batching", "Limits", "Endpoints and security"
_OBSERVED, _RAY = "Observability", "Scaling with Ray Serve"


def _option(help_text: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, show_default=False, **more)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def serve(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL...", help=".onnx files; each is served under its name without .onnx.")
    ] = None,
    config: Annotated[Path | None, _option("TOML file with [server] and [models.NAME] tables; flags win.")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda [auto: CUDA where it can run].")] = None,
    library: Annotated[str | None, _option("The compiled op library: auto, yes (or an error), no, or its path.")] = None,
    max_batch_size: Annotated[int | None, _option("Rows run at once; 0: each request alone [32].", _BATCHING)] = None,
    max_batch_delay_us: Annotated[
        int | None, _option("Microseconds that a request waits for others while a worker is free [500].", _BATCHING)
    ] = None,
    instances: Annotated[int | None, _option("Workers [one a core on the CPU, one on a GPU].", _BATCHING)] = None,
    threads: Annotated[int | None, _option("onnxruntime's threads within a run on the CPU [1].", _BATCHING)] = None,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Record a CUDA graph for each batch size.")] = False,
    input_shape: InputShape = None,
    host: Annotated[str | None, _option("Address [127.0.0.1: this machine only].", _ENDPOINTS)] = None,
    http_port: Annotated[int | None, _option("[8000]; 0: any free one, -1: no HTTP.", _ENDPOINTS)] = None,
    grpc_port: Annotated[int | None, _option("[8001]; 0: any free one, -1: no gRPC.", _ENDPOINTS)] = None,
    tls_cert: Annotated[Path | None, _option("PEM file; with --tls-key.", _ENDPOINTS)] = None,
    tls_key: Annotated[Path | None, _option("PEM file.", _ENDPOINTS)] = None,
    tls_client_ca: Annotated[
        Path | None, _option("PEM file: clients need a certificate of this authority.", _ENDPOINTS)
    ] = None,
    token_file: Annotated[Path | None, _option("File with the bearer token that clients must send.", _ENDPOINTS)] = None,
    metrics_token_file: Annotated[Path | None, _option("Likewise for /metrics [--token-file].", _ENDPOINTS)] = None,
    admin_token_file: Annotated[
        Path | None, _option("Likewise for loading and unloading models, which it allows [--token-file].", _ENDPOINTS)
    ] = None,
    model_control: Annotated[
        bool, typer.Option("--model-control", help="Clients may load and unload models.", rich_help_panel=_ENDPOINTS)
    ] = False,
    max_queue: Annotated[int | None, _option("Requests that may wait for a model; more are refused [1024].", _LIMITS)] = None,
    max_request_bytes: Annotated[int | None, _option("Of a request [64 MiB].", _LIMITS)] = None,
    max_json_bytes: Annotated[int | None, _option("Of a request's JSON [2 MiB]; larger tensors: binary.", _LIMITS)] = None,
    max_connections: Annotated[int | None, _option("Of each protocol at the same time [4096].", _LIMITS)] = None,
    request_timeout_s: Annotated[float | None, _option("Deadline of a request in seconds [30].", _LIMITS)] = None,
    drain_timeout_s: Annotated[float | None, _option("Seconds for accepted requests after SIGTERM [30].", _LIMITS)] = None,
    log_format: Annotated[str | None, _option("text or json [text].", _OBSERVED)] = None,
    log_level: Annotated[str | None, _option("debug, info, warning or error [info].", _OBSERVED)] = None,
    otlp_endpoint: Annotated[
        str | None, _option("Where OpenTelemetry traces go, e.g. http://127.0.0.1:4318.", _OBSERVED)
    ] = None,
    engine: Annotated[str, typer.Option(help="local: this process; ray: a Ray Serve cluster.", rich_help_panel=_RAY)] = "local",
    replicas: Annotated[int | None, _option("Copies of the server, with --engine ray [1].", _RAY, min=1)] = None,
    version: Version = False,
) -> None:
    """Serve ONNX files by the Open Inference Protocol (KServe V2), over HTTP and gRPC.

    Once every model has run every batch size it prints what runs it and answers /v2/health/ready. SIGTERM: what was accepted is
    answered, then it ends. Exit codes: 0 ended by a signal, 2 usage, a model that cannot be loaded, or a port that is taken.
    """
    model_flags = _given(
        device=device, library=library, max_batch_size=max_batch_size, max_batch_delay_us=max_batch_delay_us,
        instances=instances, threads=threads, cuda_graph=cuda_graph or None, max_queue=max_queue,
        input_shapes=_shapes(input_shape, models or []) or None,
    )  # fmt: skip
    server_flags = _given(
        host=host, http_port=http_port, grpc_port=grpc_port, tls_cert=tls_cert, tls_key=tls_key, tls_client_ca=tls_client_ca,
        token_file=token_file, metrics_token_file=metrics_token_file, admin_token_file=admin_token_file,
        model_control=model_control or None, max_request_bytes=max_request_bytes, max_json_bytes=max_json_bytes,
        max_connections=max_connections, request_timeout_s=request_timeout_s, drain_timeout_s=drain_timeout_s,
        log_format=log_format, log_level=log_level, otlp_endpoint=otlp_endpoint,
    )  # fmt: skip
    if engine not in ("local", "ray"):
        fail(f"--engine is {engine!r}; expected local or ray")
    if replicas is not None and engine != "ray":
        fail("--replicas needs --engine ray; on one machine, --instances sets the number of workers")
    _serve(models or [], config, server_flags, model_flags, engine, replicas)


def _serve(
    paths: list[Path], file: Path | None, server: dict[str, Any], models: dict[str, Any], engine: str, replicas: int | None
) -> None:
    from opau_onnx.errors import OpauError

    try:
        from opau_onnx.serve.config import settings

        found = settings(paths, file, server=server, models=models)
        if not found.models:
            fail("no model to serve; name an .onnx file, or a configuration file with [models.NAME] tables")
        if engine == "ray":
            from opau_onnx.serve.ray import serve_here

            serve_here(found, replicas or 1)
        else:
            from opau_onnx.serve import logs
            from opau_onnx.serve.server import run_server

            logs.configure(found.server.log_format, found.server.log_level)
            run_server(found)
    except OpauError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(f"{error}; install the server's packages: pip install 'opau-onnx[{'ray' if engine == 'ray' else 'serve'}]'")


def _given(**flags: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in flags.items() if value is not None}


def _shapes(texts: list[str] | None, models: list[Path]) -> dict[str, tuple[int, ...]]:
    """Shapes in order are those of the first model's inputs; several models need names."""
    if len(models) == 1:
        return shapes_of_file(texts, models[0])
    found = input_shapes(texts) or {}
    if not isinstance(found, Mapping):
        fail("--input-shape without a name needs exactly one MODEL; give NAME:SIZES")
    return dict(found)


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EQUAL)


if __name__ == "__main__":
    main()
