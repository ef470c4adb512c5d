"""``opau-loadtest``: drive a server of the Open Inference Protocol, and check every response."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, HELP, check_output, command_app, fail, failing, steps, write_report
from opau_onnx.cli.options import InputShape, Report, Verbose, Version, input_shapes, option
from opau_onnx.loadtest.config import ARRIVALS, LoadTestConfig, LoadTestError

app = command_app()
_LOAD, _INPUTS, _CHECKS, _SERVER = "Load", "Inputs", "Response checks", "Connection"


@app.command(context_settings=HELP)
def loadtest(
    url: Annotated[str, typer.Argument(help="http://HOST:PORT, https://, grpc://HOST:PORT or grpcs://.", show_default=False)],
    model: Annotated[str | None, option("Its name on the server. Default: the only one.")] = None,
    clients: Annotated[
        int | None, option("Closed loop: number of clients [16]. With --rate: most requests in flight [256].", _LOAD, min=1)
    ] = None,
    rate: Annotated[float | None, option("Open loop: requests per second, independent of the server.", _LOAD)] = None,
    arrivals: Annotated[str, option("With --rate: poisson or uniform.", _LOAD)] = "poisson",
    requests: Annotated[int | None, option("Measured requests.", _LOAD, min=1)] = None,
    seconds: Annotated[
        float | None, option("Measured time, or --requests, whichever ends first. Default: 10 where neither is given.", _LOAD)
    ] = None,
    warmup: Annotated[float, option("Seconds before it, checked but not measured.", _LOAD, min=0)] = 1.0,
    timeout: Annotated[float, option("Seconds for one request.", _LOAD)] = 30.0,
    rows: Annotated[str | None, option("Rows of a request: 1, or 1-8 for a mixture. Default: 1.", _INPUTS)] = None,
    data: Annotated[
        str | None,
        option("Inputs: fashion-mnist, a .npz file, a folder of .npy files. Default: random.", _INPUTS, metavar="SAMPLES"),
    ] = None,
    input_shape: InputShape = None,
    pool: Annotated[
        int | None, option("Distinct requests. Default: 64 or --clients, fewer of large ones.", _INPUTS, min=1)
    ] = None,
    seed: Annotated[int, option("Of inputs and arrivals.", _INPUTS, min=0)] = 0,
    expect: Annotated[
        Path | None,
        option(
            "File whose outputs are expected. Default: the server's own responses to single requests before the load.",
            _CHECKS,
            metavar="MODEL.onnx",
        ),
    ] = None,
    rtol: Annotated[
        float | None, option("Relative tolerance. Default of both: measured for each element.", _CHECKS, min=0.0)
    ] = None,
    atol: Annotated[float | None, option("Absolute tolerance.", _CHECKS, min=0.0)] = None,
    model_version: Annotated[str | None, option("Default: the server's choice.", _SERVER)] = None,
    wait: Annotated[float, option("Seconds to wait for the server and the model.", _SERVER, min=0)] = 0.0,
    ca: Annotated[
        Path | None,
        option("PEM file of the authority behind the server's certificate. Default: the system's.", _SERVER, metavar="FILE"),
    ] = None,
    token_file: Annotated[Path | None, option("Its first line is the bearer token.", _SERVER, metavar="FILE")] = None,
    token_env: Annotated[str | None, option("The environment variable with the token.", _SERVER, metavar="NAME")] = None,
    report: Report = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Drive any server of the Open Inference Protocol (KServe V2) and check every response.

    Ctrl-C ends the load and shows what was measured so far. Exit codes: 0 all responses were correct; 1 incorrect, missing or
    rejected ones, or errors; 2 usage error, or the server or the model cannot be reached.
    """
    if arrivals not in ARRIVALS:
        fail(f"--arrivals is {arrivals!r}; expected one of {', '.join(ARRIVALS)}")
    check_output("--report", report)
    try:
        settings = LoadTestConfig(
            clients=clients, rate=rate, arrivals=arrivals, requests=requests, seconds=seconds,  # type: ignore[arg-type]
            warmup_s=warmup, timeout_s=timeout, rows=_rows(rows), pool=pool, input_shapes=input_shapes(input_shape),
            data=data, expect=expect, rtol=rtol, atol=atol, seed=seed, model_version=model_version, ca=ca,
            token=_token(token_file, token_env), wait_s=wait,
        )  # fmt: skip
    except LoadTestError as error:
        fail(str(error))
    result = _run(url, model, settings, verbose=verbose)
    from opau_onnx.cli.loadtest_output import show

    show(result)
    if report is not None:
        write_report(report, result)
    raise typer.Exit(EQUAL if result.ok else DIFFERENT)


def _run(url: str, model: str | None, settings: LoadTestConfig, *, verbose: bool) -> Any:
    with steps(verbose=verbose) as step, failing(url, verbose=verbose, nothing="measured"):
        step("loading")
        from opau_onnx.loadtest import run

        return run(url, model, settings, progress=step, interruptible=True)


def _rows(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    numbers = [part.strip() for part in ((first, last) if dash else (first, first))]
    if not all(part.isdecimal() and 0 < int(part) < 2**31 for part in numbers) or int(numbers[0]) > int(numbers[1]):
        fail(f"--rows is {text!r}; expected a whole number of at least 1, or two with a dash, the smaller first: 1-8")
    return int(numbers[0]), int(numbers[1])


def _token(file: Path | None, variable: str | None) -> str | None:
    """The bearer token; it is never on the command line, where every user of the machine could read it."""
    if file is not None and variable is not None:
        fail("--token-file and --token-env exclude each other")
    if variable is not None:
        return os.environ.get(variable) or fail(f"--token-env is {variable!r}, but no such environment variable is set")
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--token-file {file} cannot be read: {getattr(error, 'strerror', None) or error}")
    return (lines[0].strip() if lines else "") or fail(f"--token-file {file} is empty; expected the token in its first line")


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()
