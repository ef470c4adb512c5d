"""``opau-export``: from a trained model to an ONNX file that is proven equal."""

# No `from __future__ import annotations` with heavy types here: typer reads the annotations at run time, and this module
# must import nothing heavy, so that --help answers at once.

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, console, fail, failing, steps
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
from opau_onnx.config import ExportConfig, ToleranceConfig

# Boxes on a terminal; plain help and errors when piped.
_STYLE: Any = "rich" if sys.stdout.isatty() else None
app = typer.Typer(add_completion=False, rich_markup_mode=_STYLE, pretty_exceptions_enable=False)

_FILES, _WHAT, _CHECK = "Reading the model", "What is written", "Validation"


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def export(
    model: Annotated[
        Path,
        typer.Argument(help="Checkpoint, state_dict (.pt, .pth, .safetensors), exported program (.pt2).", show_default=False),
    ],
    output: Annotated[Path, typer.Argument(help="The .onnx file to write.", show_default=False)],
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    inputs: Inputs = None,
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX opset, 18 to the newest that onnxruntime here runs; default: 20, or 22 for bfloat16.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16, bfloat16 or float64 (fp16, bf16 ..); default: the model's own.", rich_help_panel=_WHAT
        ),
    ] = None,
    dynamic_axes: Annotated[
        list[str] | None,
        typer.Option(
            help="INPUT:AXIS=NAME[,AXIS=NAME], e.g. x:0=batch,2=height; once for each input. "
            "Default: axis 0 of every input is dynamic.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    static: Annotated[bool, typer.Option("--static", help="Fix all sizes.", rich_help_panel=_WHAT)] = False,
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Weights in OUTPUT.onnx.data; default: only beyond 2 GB.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    input_names: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]", help="Of the file's inputs, all in order.", rich_help_panel=_WHAT),
    ] = None,
    output_names: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]", help="Of the file's outputs, all in order.", rich_help_panel=_WHAT),
    ] = None,
    collapse: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            help="Turn the activations into fixed functions, as opau-collapse does: standard, fused.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    report: Report = None,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Do not compare the file with PyTorch.", rich_help_panel=_CHECK)
    ] = False,
    validate_only: Annotated[
        bool,
        typer.Option("--validate-only", help="Compare an existing OUTPUT with MODEL; write nothing.", rich_help_panel=_CHECK),
    ] = False,
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
    """Export a trained model with learned activations to one ONNX file, and prove that the file is equal.

    Exit codes: 0 exported and equal; 1 not equal (the file is kept as NAME.rejected.onnx); 2 usage or load error.
    """
    names = [t and [name.strip() for name in t.split(",")] for t in (input_names, output_names)]
    settings = ExportConfig(
        opset, dtype, _axes(dynamic_axes) if dynamic_axes else None, static, external_data, not no_validate,
        ToleranceConfig(atol, rtol, samples, seed), *names,
    )  # fmt: skip
    if validate_only and no_validate:
        fail("--validate-only and --no-validate exclude each other")
    if validate_only and collapse:
        fail("--validate-only and --collapse exclude each other; opau-collapse compares what it writes")
    reading = Reading(factory, input_shapes(input_shape), allow_pickle, key, strip_prefix, inputs)
    source, result = _run(model, output, reading, settings, report, validate_only, collapse, verbose)
    from opau_onnx.cli import collapse_output, export_output
    from opau_onnx.export.api import ExportResult

    if isinstance(result, ExportResult):
        export_output.show(result, verbose=verbose, validate_only=validate_only)
    else:
        export_output.adopted(console(), source)
        collapse_output.show(result, verbose=verbose)
    raise typer.Exit(DIFFERENT if result.equal is False else EQUAL)


def _run(
    model: Path, output: Path, reading: Reading, settings: ExportConfig, report: Path | None, validate_only: bool,
    collapse: str | None, verbose: bool,
) -> Any:  # fmt: skip
    """Load, then export (and collapse) or compare; errors of ours end the command with a message, code 2."""
    logging.getLogger("opau_onnx").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    with steps(verbose=verbose) as step, failing(output, verbose=verbose):
        step("loading PyTorch")
        from opau_onnx.export.api import export_model, validate_model
        from opau_onnx.io.atomic import write_json
        from opau_onnx.native.library import say_if_missing

        say_if_missing()
        step(f"reading {model}")
        source = reading.load(model)
        if validate_only:
            step("comparing with PyTorch")
            result = validate_model(source, output, options=settings.options)
            if report is not None:
                write_json(report, result)
            return source, result
        if collapse is not None:
            from opau_onnx.collapse.api import export_collapsed

            return source, export_collapsed(source, output, collapse, settings=settings, report=report, progress=step)
        return source, export_model(source, output, settings=settings, report=report, progress=step)


def _axes(texts: list[str]) -> dict[str | int, dict[int, str]]:
    found: dict[str | int, dict[int, str]] = {}
    for text in texts:
        name, _, rest = text.partition(":")
        try:
            pairs = [part.split("=") for part in rest.split(",")]
            axes = {int(axis): dim.strip() for axis, dim in pairs}
        except ValueError:
            axes = {}
        if not name or not axes or not all(dim.isidentifier() for dim in axes.values()):
            fail(f"--dynamic-axes is {text!r}; expected INPUT:AXIS=NAME[,AXIS=NAME], e.g. x:0=batch,2=height")
        found.setdefault(name, {}).update(axes)
    return found


def main() -> None:
    """Entry point of the command."""
    app()
