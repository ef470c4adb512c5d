"""``opau-certify``: the compiled kernels of a model's activations against the oracle, on every input there is."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, HELP, command_app, fail, failing, write_report
from opau_onnx.cli.options import Version, option

app = command_app()


@app.command(context_settings=HELP)
def certify(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    report: Annotated[
        Path | None,
        option(
            "The certificate; default: MODEL with .certificate.json in place of .onnx, and none with --quick.",
            metavar="FILE.json",
        ),
    ] = None,
    dtypes: Annotated[str, option("Comma-separated; float64 has too many inputs to try.")] = "float32,float16,bfloat16",
    threads: Annotated[int | None, option("Default: all cores.", min=1)] = None,
    max_ulp: Annotated[
        float | None,
        option("Largest error allowed where the condition number is below 10; default: float32 64, 16 bits 1.", min=0.0),
    ] = None,
    quick: Annotated[
        bool,
        option("A sample of the float32 inputs: no certificate, and no file unless --report asks for one.", None, "--quick"),
    ] = False,
    version: Version = False,
) -> None:
    """Certify the compiled kernels on all 2^32 float32 inputs and all 65,536 of float16 and bfloat16, for each activation.

    Holds every error against the oracle's bound; reports the largest one in units of the result's last place, inputs that
    break the range policy (NaN, infinities, overflow), and inputs for which the instruction sets of this machine, or the
    kernels for channels, blocks and streaming, give other bits. The JSON names what was not covered.

    Exit codes: 0 certified, or nothing wrong in the sample of --quick; 1 not; 2 usage error, no library, or interrupted.
    """
    from opau_onnx.certify.sweep import SWEPT

    chosen = [name.strip() for name in dtypes.split(",")]
    unknown = [name for name in chosen if name not in SWEPT]
    if unknown:
        fail(f"--dtypes has {', '.join(map(repr, unknown))}; expected some of {', '.join(SWEPT)}")
    path = report or (None if quick else model.with_suffix(".certificate.json"))
    judged = _judged(model, chosen, threads or os.cpu_count() or 1, quick, max_ulp)
    from opau_onnx.certify import certificate
    from opau_onnx.cli.certify_output import show

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    content = certificate.report(model, judged, quick=quick, command=command)
    if path is not None:
        write_report(path, content)
    show(judged, path, quick=quick)
    raise typer.Exit(EQUAL if content["passed"] else DIFFERENT)


def _judged(model: Path, dtypes: list[str], threads: int, quick: bool, max_ulp: float | None) -> list[Any]:
    from opau_onnx.certify import activations
    from opau_onnx.certify.certificate import certify as one
    from opau_onnx.certify.sweep import count
    from opau_onnx.cli.certify_output import progress

    with failing(model, verbose=False, nothing="certified"):
        found = activations.read(model)
        total = len(found) * sum(count(dtype, quick=quick) for dtype in dtypes)
        with progress(total) as advance:
            return [one(a, dtypes, threads=threads, quick=quick, max_ulp=max_ulp, progress=advance(a)) for a in found]


def main() -> None:
    """Entry point of the command."""
    app()
