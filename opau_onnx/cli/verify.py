"""``opau-verify``: is it the same model? PyTorch against ONNX files in every runtime at hand."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, USAGE, fail, failing, steps
from opau_onnx.cli.options import (
    AllowPickle,
    Factory,
    Inputs,
    InputShape,
    Key,
    Reading,
    Report,
    StripPrefix,
    Verbose,
    Version,
    input_shapes,
)
from opau_onnx.compare.names import RUNTIMES, TORCH
from opau_onnx.config import VerifyConfig

_STYLE: Any = "rich" if sys.stdout.isatty() else None
app = typer.Typer(add_completion=False, rich_markup_mode=_STYLE, pretty_exceptions_enable=False)
_READING, _WHAT, _JUDGING = "Reading the model", "What is compared", "Judging"


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def verify(
    model: Annotated[
        Path,
        typer.Argument(help="The PyTorch model: checkpoint, state_dict (.pt, .pth, .safetensors), .pt2.", show_default=False),
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILE.onnx...", help="What was made of it.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            help="Samples, with labels where known: fashion-mnist, a .npz file, a folder. Default: the example input and "
            "random ones.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first samples only.", min=1, rich_help_panel=_WHAT)] = None,
    batch: Annotated[int, typer.Option(help="Samples in one run.", min=1, rich_help_panel=_WHAT)] = 256,
    runtimes: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated; each must run. Default: those of {','.join(RUNTIMES)} that can.", rich_help_panel=_WHAT
        ),
    ] = None,
    layerwise: Annotated[
        bool,
        typer.Option("--layerwise", help="Look at what each activation takes and gives.", rich_help_panel=_WHAT),
    ] = False,
    reference_seconds: Annotated[
        float,
        typer.Option(
            help="After so long the slow ReferenceEvaluator begins no further batch.", min=0.0, rich_help_panel=_WHAT
        ),
    ] = 100.0,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance instead of the measured one.", min=0.0, rich_help_panel=_JUDGING)
    ] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative tolerance instead of the measured one.", min=0.0, rich_help_panel=_JUDGING)
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="Least share of the samples with PyTorch's label. Default: 1 where labels are known.", min=0.0, max=1.0,
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    report: Report = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the report as a page with figures.")] = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    inputs: Inputs = None,
    samples: Annotated[int, typer.Option(help="Rows of the largest random batch.", min=1, rich_help_panel=_WHAT)] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.", rich_help_panel=_WHAT)] = 0,
    verbose: Verbose = False,
    version: Version = False,
) -> None:  # fmt: skip
    """Is it the same model? Compare MODEL with ONNX files of it in every runtime at hand, down to the layer.

    Exit codes: 0 equal; 1 not equal; 2 usage error, or a runtime that was named did not run.
    """
    settings = VerifyConfig(
        _runtimes(runtimes), layerwise, atol, rtol, min_agreement, limit, batch, reference_seconds, samples, seed
    )
    reading = Reading(factory, input_shapes(input_shape), allow_pickle, key, strip_prefix, inputs)
    result = _run(model, files, data, reading, settings, report, html, verbose)
    from opau_onnx.cli.verify_output import show

    show(result, [path for path in (report, html) if path], verbose=verbose)
    raise typer.Exit(DIFFERENT if not result.equal else EQUAL if result.complete else USAGE)


def _run(
    model: Path, files: list[Path], data: str | None, reading: Reading, settings: VerifyConfig, report: Path | None,
    html: Path | None, verbose: bool,
) -> Any:  # fmt: skip
    logging.getLogger("opau_onnx").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    with steps(verbose=verbose) as step, failing(model, verbose=verbose):
        step("loading PyTorch")
        from opau_onnx.native.library import say_if_missing
        from opau_onnx.verify.api import verify_model

        say_if_missing()
        step(f"reading {model}")
        source = reading.load(model)
        return verify_model(source, files, data=data, settings=settings, report=report, html=html, progress=step)


def _runtimes(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in RUNTIMES:
            fail(f"--runtimes holds {name!r}; expected some of {', '.join(RUNTIMES)} with commas")
    if names == [TORCH]:
        fail(f"--runtimes names {TORCH} alone, with which the others are compared; name another one besides")
    return names


def main() -> None:
    """Entry point of the command."""
    app()
