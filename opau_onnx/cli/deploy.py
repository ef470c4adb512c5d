"""``opau-deploy``: files for servers that are not ours: a Triton model repository, a Ray Serve config file."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from opau_onnx.cli.common import HELP, command_app, console, fail, failing, steps
from opau_onnx.cli.options import InputShape, Verbose, Version, option, shapes_of_file
from opau_onnx.cli.serve_options import ModelOptions

app = command_app("deploy")
_BATCHING, _RUNNING, _PLACES = "Batching", "Running", "Places"
_T = TypeVar("_T")


def _option(help_text: str, panel: str, **more: Any) -> Any:
    return option(help_text, panel, show_default=False, **more)


_Size = Annotated[
    int | None, _option("Rows run at once; 0: each request alone [32 where the model takes any].", _BATCHING, min=0)
]
_Delay = Annotated[int | None, _option("Microseconds that a request waits for others [500].", _BATCHING, min=0)]


@app.callback()
def _deploy(version: Version = False) -> None:
    """Write what Triton or Ray Serve needs to serve ONNX files. Exit codes: 0 written; 2 not, with the reason."""


@app.command(context_settings=HELP)
def triton(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Weights in other files come along.", show_default=False)],
    repository: Annotated[
        Path, typer.Argument(metavar="REPOSITORY", help="The model repository; made where it is missing.", show_default=False)
    ],
    name: Annotated[str | None, option("Of the model. Default: the file's name.")] = None,
    replace: Annotated[bool, option("A model of that name may be there.", None, "--replace")] = False,
    device: Annotated[str, option("cpu, cuda, or auto: Triton chooses.", _RUNNING)] = "cpu",
    max_batch_size: _Size = None,
    max_batch_delay_us: _Delay = None,
    preferred_batch_size: Annotated[
        list[int] | None, _option("Row count that is run at once when reached; repeatable.", _BATCHING, min=1)
    ] = None,
    max_queue: Annotated[int | None, _option("Requests that may wait; 0: any number [1024].", _BATCHING, min=0)] = None,
    queue_timeout_us: Annotated[int, _option("Microseconds that one may wait; 0: any time [0].", _BATCHING, min=0)] = 0,
    queue_delay: Annotated[bool, option("Put last what waited too long, not refuse it.", _BATCHING, "--queue-delay")] = False,
    queue_timeout_override: Annotated[
        bool, option("Requests may ask for a shorter time.", _BATCHING, "--queue-timeout-override")
    ] = False,
    no_batch_check: Annotated[
        bool, option("Batch also where rows depend on each other.", _BATCHING, "--no-batch-check")
    ] = False,
    instances: Annotated[int, _option("For each device [1].", _RUNNING, min=1)] = 1,
    gpu: Annotated[list[int] | None, _option("Number of a GPU to run on; repeatable [all].", _RUNNING, min=0)] = None,
    threads: Annotated[int, _option("onnxruntime's within a run on the CPU; 0: one a core [0].", _RUNNING, min=0)] = 0,
    parameter: Annotated[list[str] | None, _option("KEY=VALUE of Triton's onnxruntime backend; repeatable.", _RUNNING)] = None,
    cuda_option: Annotated[list[str] | None, _option("KEY=VALUE of onnxruntime's CUDA provider; repeatable.", _RUNNING)] = None,
    input_shape: InputShape = None,
    no_warmup: Annotated[bool, option("Ready without a run.", _RUNNING, "--no-warmup")] = False,
    no_library: Annotated[bool, option("Without the compiled op library, slowly.", _PLACES, "--no-library")] = False,
    library_path: Annotated[
        str | None, _option("Where the op library lies on Triton's machine [a copy in REPOSITORY].", _PLACES)
    ] = None,
    repository_path: Annotated[
        str | None, _option("Where REPOSITORY lies on Triton's machine or in its container [as here].", _PLACES)
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Put MODEL.onnx into a Triton model repository, with the op library and a README."""
    shapes = shapes_of_file(input_shape, model)
    parameters, cuda = _pairs("--parameter", parameter), _pairs("--cuda-option", cuda_option)

    def work(step: Callable[[str], None]) -> Any:
        from opau_onnx.deploy.options import Options, queue_policy
        from opau_onnx.deploy.triton import deploy_triton

        delay_us = Options.max_batch_delay_us if max_batch_delay_us is None else max_batch_delay_us
        queue = queue_policy(max_queue, timeout_us=queue_timeout_us, delay=queue_delay, override=queue_timeout_override)
        options = Options(
            name=name, device=device, max_batch_size=max_batch_size, max_batch_delay_us=delay_us,
            preferred=tuple(preferred_batch_size or ()), queue=queue, batch_check=not no_batch_check, instances=instances,
            gpus=tuple(gpu or ()), threads=threads, parameters=parameters, cuda=cuda, input_shapes=shapes,
            warmup=not no_warmup, library=not no_library, library_path=library_path, repository_path=repository_path,
            replace=replace,
        )  # fmt: skip
        return deploy_triton(model, repository, options, progress=step)

    _show_triton(_run(work, repository, verbose))


@app.command(context_settings=HELP)
def ray(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL.onnx", help="Each is served under its name without .onnx.", show_default=False),
    ],
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The file to write.", show_default=False)],
    device: Annotated[str | None, _option("cpu or cuda [cuda with --num-gpus].", _RUNNING)] = None,
    max_batch_size: _Size = None,
    max_batch_delay_us: _Delay = None,
    instances: Annotated[
        int | None, _option("Workers of a replica [as many as --num-cpus; one on a GPU].", _RUNNING, min=1)
    ] = None,
    cuda_graph: Annotated[bool, option("Record a CUDA graph for each batch size.", _RUNNING, "--cuda-graph")] = False,
    replicas: Annotated[int | None, _option("How many [1].", _RUNNING, min=1)] = None,
    autoscale: Annotated[str | None, _option("MIN:MAX replicas, by load.", _RUNNING)] = None,
    target_ongoing_requests: Annotated[
        float | None, _option("Of a replica, what --autoscale aims at [the largest batch].", _RUNNING, min=1)
    ] = None,
    num_cpus: Annotated[float, _option("Reserved for each replica [1].", _RUNNING, min=0)] = 1.0,
    num_gpus: Annotated[
        float | None, _option("Reserved for each replica; 0.5: two on one GPU [1 on cuda].", _RUNNING, min=0)
    ] = None,
    max_ongoing_requests: Annotated[
        int | None, _option("That a replica has at once [what its queues hold].", _RUNNING, min=1)
    ] = None,
    max_queued_requests: Annotated[
        int | None, _option("That wait at each proxy; more are refused [1024].", _RUNNING, min=1)
    ] = None,
    host: Annotated[str, _option("Where the HTTP proxies listen [127.0.0.1].", _PLACES)] = "127.0.0.1",
    http_port: Annotated[int, _option("[8000]", _PLACES, min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, _option("[9000]", _PLACES, min=1, max=65535)] = 9000,
    models_path: Annotated[str | None, _option("The folder with the models on Ray's machines [as here].", _PLACES)] = None,
    verbose: Verbose = False,
) -> None:
    """Write a Ray Serve config file, for `serve deploy` and `serve run`."""
    serving = ModelOptions(
        max_batch_size=max_batch_size, max_batch_delay_us=max_batch_delay_us, instances=instances,
        cuda_graph=cuda_graph or None,
    )  # fmt: skip
    bounds = _bounds(autoscale)

    def work(step: Callable[[str], None]) -> Any:
        from opau_onnx.deploy.ray import Options, deploy_ray

        options = Options(
            device=device, serving=serving.given(), replicas=replicas,
            autoscale=bounds, target_ongoing_requests=target_ongoing_requests, num_cpus=num_cpus, num_gpus=num_gpus,
            max_ongoing_requests=max_ongoing_requests, max_queued_requests=max_queued_requests, host=host, http_port=http_port,
            grpc_port=grpc_port, models_path=models_path,
        )  # fmt: skip
        step("checking with Ray's schema")
        return deploy_ray(models, config, options)

    result = _run(work, config, verbose)
    _print(f"{result.path} written, {result.checked}")


def _run(work: Callable[[Callable[[str], None]], _T], output: Path, verbose: bool) -> _T:
    with steps(verbose=verbose) as step:
        step("loading")

        with failing(output, verbose=verbose):
            return work(step)


def _show_triton(result: Any) -> None:
    config = result.config
    batches = f"batches of up to {config.max_batch_size} rows" if config.max_batch_size else "no batches"
    _print(f"{result.folder}: {config.name}, {batches}, {config.instance_group[0].count} instance(s)")
    if result.library is not None:
        _print(f"op library: {result.library}")
    for note in result.notes:
        _print(f"note: {note}")
    _print(f"how to start Triton, and which releases fit: {result.readme}. Triton itself was not run here.")


def _print(line: str) -> None:
    console().print(line, highlight=False, soft_wrap=True, markup=False)


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not key or not equals:
            fail(f"{option} is {text!r}; expected KEY=VALUE")
        found[key] = value
    return found


def _bounds(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    fewest, _, most = text.partition(":")
    if not (fewest.isdecimal() and most.isdecimal()):
        fail(f"--autoscale is {text!r}; expected MIN:MAX, e.g. 1:4")
    return int(fewest), int(most)


def main() -> None:
    """Entry point of the command."""
    app()
