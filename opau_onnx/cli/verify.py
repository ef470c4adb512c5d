"""``opau-verify``: PyTorch, or an ONNX file, against ONNX files of the same model, in every available runtime."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, HELP, USAGE, command_app, fail, failing, steps
from opau_onnx.cli.options import (
    VALIDATION,
    AllowPickle,
    Atol,
    Factory,
    Inputs,
    InputShape,
    Key,
    RandomRows,
    Reading,
    Report,
    Rtol,
    Seed,
    StripPrefix,
    Verbose,
    Version,
    input_shapes,
    option,
)
from opau_onnx.compare.names import ONNX_SUFFIX, RUNTIMES, TORCH
from opau_onnx.config import VerifyConfig

app = command_app()
_DATA = "Data and runtimes"


@app.command(context_settings=HELP)
def verify(
    model: Annotated[
        Path,
        typer.Argument(
            help="The PyTorch model: checkpoint, state_dict (.pt, .pth, .safetensors), .pt2; or an .onnx file, with which the "
            "others are compared.",
            show_default=False,
        ),
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILE.onnx...", help="Files made from it.", show_default=False)],
    data: Annotated[
        str | None,
        option(
            "Samples, with labels where known: fashion-mnist, a .npz file, a folder. Default: the example input and "
            "random ones.",
            _DATA,
        ),
    ] = None,
    limit: Annotated[int | None, option("The first samples only.", _DATA, min=1)] = None,
    batch: Annotated[int, option("Samples in one run.", _DATA, min=1)] = 256,
    runtimes: Annotated[
        str | None, option(f"Comma-separated; each must run. Default: those of {','.join(RUNTIMES)} that can.", _DATA)
    ] = None,
    layerwise: Annotated[bool, option("Compare inputs and outputs of each activation.", _DATA, "--layerwise")] = False,
    reference_seconds: Annotated[
        float, option("After so long the slow ReferenceEvaluator begins no further batch.", _DATA, min=0.0)
    ] = 100.0,
    atol: Atol = None,
    rtol: Rtol = None,
    min_agreement: Annotated[
        float | None,
        option(
            "Least share of the samples with PyTorch's label. Default: 1 where labels are known.", VALIDATION, min=0.0, max=1.0
        ),
    ] = None,
    report: Report = None,
    html: Annotated[Path | None, option("Write the report as a page with figures.", metavar="FILE.html")] = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    inputs: Inputs = None,
    samples: RandomRows = 16,
    seed: Seed = 0,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Verify that ONNX files compute the same as MODEL, in every available runtime, down to the layer.

    Exit codes: 0 equal; 1 not equal; 2 usage error, or a runtime that was named did not run.
    """
    config = VerifyConfig(
        runtimes=_runtimes(runtimes), layerwise=layerwise, atol=atol, rtol=rtol, min_agreement=min_agreement, limit=limit,
        batch=batch, reference_seconds=reference_seconds, samples=samples, seed=seed,
    )  # fmt: skip
    reading = Reading(factory, input_shapes(input_shape), allow_pickle, key, strip_prefix, inputs)
    result = _run(model, files, data, reading, config, report, html, verbose)
    from opau_onnx.cli.verify_output import show

    show(result, [path for path in (report, html) if path], verbose=verbose)
    raise typer.Exit(DIFFERENT if not result.equal else EQUAL if result.complete else USAGE)


def _run(
    model: Path, files: list[Path], data: str | None, reading: Reading, config: VerifyConfig, report: Path | None,
    html: Path | None, verbose: bool,
) -> Any:  # fmt: skip
    logging.getLogger("opau_onnx").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    with steps(verbose=verbose) as step, failing(model, verbose=verbose):
        step("loading PyTorch")
        from opau_onnx.native.library import say_if_missing
        from opau_onnx.verify.api import verify_model

        say_if_missing()
        step(f"reading {model}")
        source = _onnx(model, reading, config) if model.suffix == ONNX_SUFFIX else reading.load(model)
        return verify_model(source, files, data=data, settings=config, report=report, html=html, progress=step)


def _onnx(model: Path, reading: Reading, config: VerifyConfig) -> Any:
    from opau_onnx.verify import read_onnx_model

    for name, given in (("--model", reading.factory), ("--key", reading.key), ("--strip-prefix", reading.strip_prefix)):
        if given is not None:
            fail(f"{name} says how weights of PyTorch are read, and {model} is an ONNX file; leave it out")
    return read_onnx_model(model, reading.inputs, reading.input_shapes, config.seed)


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
