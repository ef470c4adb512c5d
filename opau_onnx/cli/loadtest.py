"""``opau-loadtest``: drive a server of the Open Inference Protocol, and check every answer."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, fail, failing, steps, write_report
from opau_onnx.cli.options import InputShape, Report, Verbose, Version, input_shapes
from opau_onnx.loadtest.settings import ARRIVALS, LoadTestError, Settings

_STYLE: Any = "rich" if sys.stdout.isatty() else None
app = typer.Typer(add_completion=False, rich_markup_mode=_STYLE, pretty_exceptions_enable=False)
_LOAD, _WHAT, _JUDGING, _REACHING = "The load", "What is sent", "What is right", "Reaching the server"


def _option(help_text: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def loadtest(
    url: Annotated[str, typer.Argument(help="http://HOST:PORT, https://, grpc://HOST:PORT or grpcs://.", show_default=False)],
    model: Annotated[str | None, _option("Its name on the server. Default: the only one.")] = None,
    clients: Annotated[
        int | None, _option("Closed loop: so many clients [16]. With --rate: requests at once at most [256].", _LOAD, min=1)
    ] = None,
    rate: Annotated[float | None, _option("Open loop: arrivals of requests a second, whatever the server does.", _LOAD)] = None,
    arrivals: Annotated[str, _option("With --rate: poisson or uniform.", _LOAD)] = "poisson",
    requests: Annotated[int | None, _option("Measured requests.", _LOAD, min=1)] = None,
    seconds: Annotated[
        float | None, _option("Measured time; with --requests what ends first. Default: 10 where neither is given.", _LOAD)
    ] = None,
    warmup: Annotated[float, _option("Seconds before it, checked but not measured.", _LOAD, min=0)] = 1.0,
    timeout: Annotated[float, _option("Seconds for one request.", _LOAD)] = 30.0,
    rows: Annotated[str | None, _option("Rows of a request: 1, or 1-8 for a mixture. Default: 1.", _WHAT)] = None,
    data: Annotated[
        str | None,
        _option("Inputs: fashion-mnist, a .npz file, a folder of .npy files. Default: random.", _WHAT, metavar="SAMPLES"),
    ] = None,
    input_shape: InputShape = None,
    pool: Annotated[
        int | None, _option("Distinct requests. Default: 64 or --clients, fewer of large ones.", _WHAT, min=1)
    ] = None,
    seed: Annotated[int, _option("Of inputs and arrivals.", _WHAT, min=0)] = 0,
    expect: Annotated[
        Path | None,
        _option(
            "Run here once for each distinct request. Default: the server's own answers to single requests before the load.",
            _JUDGING, metavar="MODEL.onnx",
        ),
    ] = None,
    rtol: Annotated[
        float | None, _option("Relative tolerance. Default of both: half of the dtype's digits.", _JUDGING, min=0.0)
    ] = None,
    atol: Annotated[float | None, _option("Absolute tolerance.", _JUDGING, min=0.0)] = None,
    model_version: Annotated[str | None, _option("Default: the server's choice.", _REACHING)] = None,
    wait: Annotated[float, _option("Seconds to wait for the server and the model.", _REACHING, min=0)] = 0.0,
    ca: Annotated[
        Path | None,
        _option("PEM file of the authority behind the server's certificate. Default: the system's.", _REACHING, metavar="FILE"),
    ] = None,
    token_file: Annotated[Path | None, _option("Its first line is the bearer token.", _REACHING, metavar="FILE")] = None,
    token_env: Annotated[str | None, _option("The environment variable with the token.", _REACHING, metavar="NAME")] = None,
    report: Report = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:  # fmt: skip
    """Drive any server of the Open Inference Protocol (KServe V2) and check every answer.

    Ctrl-C ends the load and shows what was measured so far. Exit codes: 0 all answers were right; 1 wrong, lost or refused
    ones, or errors; 2 usage error, or the server or the model cannot be reached.
    """
    if arrivals not in ARRIVALS:
        fail(f"--arrivals is {arrivals!r}; expected one of {', '.join(ARRIVALS)}")
    _check_output(report)
    try:
        settings = Settings(
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


def _run(url: str, model: str | None, settings: Settings, *, verbose: bool) -> Any:
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


def _check_output(path: Path | None) -> None:
    """Refuse before the load what could not be written after it."""
    if path is None:
        return
    if path.is_dir():
        fail(f"--report is {str(path)!r}, which is a folder; expected a file's name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        fail(f"--report is {str(path)!r}, but the folder {str(path.parent)!r} does not exist or cannot be written")


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()
