"""``opau-collapse``: learned activations become fixed functions of standard operators."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli import quantize_options
from opau_onnx.cli.common import DIFFERENT, EQUAL, failing, steps
from opau_onnx.cli.options import InputShape, Report, Verbose, Version, input_shapes
from opau_onnx.config import Data, ToleranceConfig, ValidationConfig

_STYLE: Any = "rich" if sys.stdout.isatty() else None
app = typer.Typer(add_completion=False, rich_markup_mode=_STYLE, pretty_exceptions_enable=False)
_CHECK, _CHANGE = "Validation", "What may change"


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def collapse(
    model: Annotated[Path, typer.Argument(metavar="INPUT", help="The .onnx file; it is not touched.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The .onnx file to write.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            help="standard: operators of ONNX's default domain only; fused: one node, with the affine before it; lut, for "
            "quantized models: a table."
        ),
    ] = "standard",
    tolerance: Annotated[
        float,
        typer.Option(
            help="How much each activation's result may change, on the range that real inputs reach; 0: by rounding only.",
            min=0.0,
            rich_help_panel=_CHANGE,
        ),
    ] = 0.0,
    data: Annotated[
        str | None,
        typer.Option(
            help="Real inputs: a .npz file, a folder of .npy files, or fashion-mnist. --tolerance needs them.",
            metavar="SAMPLES",
            rich_help_panel=_CHANGE,
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option(help="Samples that tell the ranges.", min=1, rich_help_panel=_CHANGE)
    ] = 512,
    quantize: quantize_options.Quantize = False,
    activations: quantize_options.Activations = None,
    weights: quantize_options.Weights = None,
    calibration: quantize_options.Calibration = None,
    reduce_range: quantize_options.ReduceRange = False,
    min_agreement: quantize_options.MinAgreement = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Compare with this PyTorch model (.pt, .pt2); default: with INPUT.", rich_help_panel=_CHECK),
    ] = None,
    input_shape: InputShape = None,
    report: Report = None,
    no_validate: Annotated[bool, typer.Option("--no-validate", help="Compare nothing.", rich_help_panel=_CHECK)] = False,
    atol: Annotated[
        float | None,
        typer.Option(help="Absolute tolerance instead of the measured one.", min=0.0, rich_help_panel=_CHECK),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(help="Relative tolerance instead of the measured one.", min=0.0, rich_help_panel=_CHECK),
    ] = None,
    samples: Annotated[int, typer.Option(help="Rows of the largest random batch.", min=1, rich_help_panel=_CHECK)] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.", rich_help_panel=_CHECK)] = 0,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Turn the learned activations of an ONNX file into fixed functions, and prove that nothing was lost.

    Exit codes: 0 collapsed and equal; 1 not equal (the file is kept as NAME.rejected.onnx); 2 usage error or nothing to do.
    """
    how = quantize_options.settings(
        quantize=quantize, activations=activations, weights=weights, calibration=calibration, reduce_range=reduce_range
    )
    comparing = ValidationConfig(
        reference, input_shapes(input_shape) or {}, ToleranceConfig(atol, rtol, samples, seed), no_validate,
        quantize_options.agreement(min_agreement, form),
    )  # fmt: skip
    inputs = Data(data, calibration_samples) if data else None
    with steps(verbose=verbose) as step, failing(output, verbose=verbose):
        step("loading")
        from opau_onnx.collapse.api import collapse_model
        from opau_onnx.native.library import say_if_missing

        say_if_missing()
        result = collapse_model(
            model, output, form, tolerance=tolerance, data=inputs, quantizing=how, comparing=comparing, report=report,
            progress=step,
        )  # fmt: skip
    from opau_onnx.cli.collapse_output import show

    show(result, verbose=verbose)
    raise typer.Exit(DIFFERENT if result.equal is False else EQUAL)


def main() -> None:
    """Entry point of the command."""
    app()
