"""``opau-plot``: all learned activations of a model on one sheet."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from pathlib import Path
from typing import Annotated

import typer

from opau_onnx.cli.common import HELP, command_app, console, fail, failing, steps
from opau_onnx.cli.options import (
    AllowPickle,
    Factory,
    Inputs,
    InputShape,
    Key,
    Reading,
    StripPrefix,
    Verbose,
    Version,
    input_shapes,
    option,
)

app = command_app()


@app.command(context_settings=HELP)
def plot(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint, state_dict (.pt, .pth, .safetensors), .pt2 or .onnx file.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Argument(metavar="OUTPUT.png|.svg", help="Default: MODEL.activations.png here.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        option(
            "Real inputs: fashion-mnist, a .npz file, a folder of .npy files. Default: the example input, where MODEL "
            "holds one.",
            metavar="SAMPLES",
        ),
    ] = None,
    samples: Annotated[int, option("Samples that are taken, the first ones.", min=1)] = 1000,
    layers: Annotated[str | None, option("Only activations of this name; shell patterns allowed.", metavar="PATTERN")] = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    inputs: Inputs = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Draw the learned activations of MODEL: curve, derivative, start, and the inputs that they really get.

    Exit codes: 0 drawn; 2 usage error, or nothing to draw.
    """
    output = output or Path(f"{model.stem}.activations.png")
    reading = Reading(factory, input_shapes(input_shape), allow_pickle, key, strip_prefix, inputs)
    if model.suffix.lower() == ".onnx" and reading != Reading():
        fail("--model, --input-shape and --allow-pickle say how PyTorch files are read; an .onnx file needs none of them")
    with steps(verbose=verbose) as step, failing(output, verbose=verbose):
        step("loading")
        from opau_onnx.plot.api import plot_model

        step(f"reading {model}")
        source = model if model.suffix.lower() == ".onnx" else reading.load(model)
        result = plot_model(source, output, data=data, samples=samples, layers=layers, progress=step)
    out = console()
    for note in result.notes:
        out.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    fed = f"; inputs: {result.inputs}" if result.inputs else ""
    count = f"{len(result.drawn)} learned activation{'s' if len(result.drawn) != 1 else ''} drawn"
    out.print(f"{count}: {result.path}{fed}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Entry point of the command."""
    app()
