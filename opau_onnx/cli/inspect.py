"""``opau-inspect``: the learned activations of a model, and what would run each."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import HELP, command_app, console, fail, failing, steps, table, write_report
from opau_onnx.cli.options import (
    AllowPickle,
    Factory,
    InputShape,
    Key,
    Reading,
    Report,
    StripPrefix,
    Verbose,
    Version,
    input_shapes,
)

app = command_app()


@app.command(context_settings=HELP)
def inspect(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint, state_dict (.pt, .pth, .safetensors), .pt2 or .onnx file.", show_default=False)
    ],
    report: Report = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """List the activations of MODEL: basis, denominator, degrees, groups, ranges of coefficients, and what would run them here.

    The model is not run. Exit codes: 0 done, also where there is no activation; 2 usage error, or MODEL cannot be read.
    """
    reading = Reading(factory, input_shapes(input_shape), allow_pickle, key, strip_prefix)
    onnx = model.suffix.lower() == ".onnx"
    if onnx and reading != Reading():
        fail("--model, --input-shape and --allow-pickle say how PyTorch files are read; an .onnx file needs none of them")
    with steps(verbose=verbose) as step, failing(model, verbose=verbose):
        step("loading")
        from opau_onnx.inspect.api import inspect_model

        step(f"reading {model}")
        result = inspect_model(model if onnx else reading.load(model))
    if report is not None:
        write_report(report, result)
    _show(result)


def _show(result: Any) -> None:
    out = console()
    count = len(result.activations)
    form = f", collapsed to the {result.form} form" if result.form else ""
    head = f"{result.name} ({result.kind}{form}): {count} activation{'s' if count != 1 else ''}; {result.runtime}"
    out.print(head, highlight=False, soft_wrap=True, markup=False)
    if count:
        columns = (
            "activation",
            "kind",
            "basis",
            "denominator",
            "degrees",
            "groups",
            "numerator",
            "denominator",
            "dtype",
            "run by",
        )
        rows = table(out, *columns)
        for found in result.activations:
            rows.add_row(*_row(found))
        out.print(rows, highlight=False, markup=False)
    for found in result.activations:
        for note in found.notes:
            out.print(f"{found.name}: {note}", highlight=False, soft_wrap=True, markup=False)
    for note in result.notes:
        out.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)


def _row(found: Any) -> tuple[str, ...]:
    from rich.markup import escape

    config = found.config
    what = ("-", "-", "-", "-")
    if config is not None:
        groups = f"{config.groups} on axis {config.axis}" if config.groups > 1 else "1"
        what = (config.basis, config.form, f"{config.degrees[0]}, {config.degrees[1]}", groups)
    sizes = tuple("-" if e is None else f"{e[0]:.3g} .. {e[1]:.3g}" for e in (found.numerator, found.denominator))
    return escape(found.name), found.kind, *what, *sizes, found.dtype or "-", found.runs or "nothing"


def main() -> None:
    """Entry point of the command."""
    app()
