"""``opau-collapse``: learned activations become fixed functions of standard operators."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from pathlib import Path
from typing import Annotated

import typer

from opau_onnx.cli import quantize_options
from opau_onnx.cli.common import DIFFERENT, EQUAL, HELP, command_app, failing, steps
from opau_onnx.cli.options import (
    VALIDATION,
    Atol,
    InputShape,
    RandomRows,
    Report,
    Rtol,
    Seed,
    Verbose,
    Version,
    input_shapes,
    option,
)
from opau_onnx.config import Data, ToleranceConfig, ValidationConfig

app = command_app()
_CHANGE = "Approximation"


@app.command(context_settings=HELP)
def collapse(
    model: Annotated[Path, typer.Argument(metavar="INPUT", help="The .onnx file; it is not touched.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The .onnx file to write.", show_default=False)],
    form: Annotated[
        str,
        option(
            "standard: operators of ONNX's default domain only; fused: one node, with the affine before it; lut, for "
            "quantized models: a table."
        ),
    ] = "standard",
    tolerance: Annotated[
        float,
        option(
            "How much each activation's result may change, on the range that real inputs reach; 0: by rounding only.",
            _CHANGE,
            min=0.0,
        ),
    ] = 0.0,
    data: Annotated[
        str | None,
        option(
            "Real inputs: a .npz file, a folder of .npy files, or fashion-mnist. --tolerance needs them.",
            _CHANGE,
            metavar="SAMPLES",
        ),
    ] = None,
    calibration_samples: Annotated[int, option("Samples that tell the ranges.", _CHANGE, min=1)] = 512,
    quantize: quantize_options.Quantize = False,
    activations: quantize_options.Activations = None,
    weights: quantize_options.Weights = None,
    calibration: quantize_options.Calibration = None,
    reduce_range: quantize_options.ReduceRange = False,
    min_agreement: quantize_options.MinAgreement = None,
    reference: Annotated[
        Path | None, option("Compare with this PyTorch model (.pt, .pt2); default: with INPUT.", VALIDATION)
    ] = None,
    input_shape: InputShape = None,
    report: Report = None,
    no_validate: Annotated[bool, option("Compare nothing.", VALIDATION, "--no-validate")] = False,
    atol: Atol = None,
    rtol: Rtol = None,
    samples: RandomRows = 16,
    seed: Seed = 0,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Turn the learned activations of an ONNX file into fixed functions, and verify the file (equal within a rounding bound).

    Exit codes: 0 collapsed and equal; 1 not equal (the file is kept as NAME.rejected.onnx); 2 usage error or nothing to do.
    """
    quantization = quantize_options.quantization(
        quantize=quantize, activations=activations, weights=weights, calibration=calibration, reduce_range=reduce_range
    )
    validation = ValidationConfig(
        reference=reference, input_shapes=input_shapes(input_shape) or {}, options=ToleranceConfig(atol, rtol, samples, seed),
        skip=no_validate, min_agreement=quantize_options.agreement(min_agreement, form),
    )  # fmt: skip
    inputs = Data(data, calibration_samples) if data else None
    with steps(verbose=verbose) as step, failing(output, verbose=verbose):
        step("loading")
        from opau_onnx.collapse.api import collapse_model
        from opau_onnx.native.library import say_if_missing

        say_if_missing()
        result = collapse_model(
            model, output, form, tolerance=tolerance, data=inputs, quantizing=quantization, comparing=validation, report=report,
            progress=step,
        )  # fmt: skip
    from opau_onnx.cli.collapse_output import show

    show(result, verbose=verbose)
    raise typer.Exit(DIFFERENT if result.equal is False else EQUAL)


def main() -> None:
    """Entry point of the command."""
    app()
