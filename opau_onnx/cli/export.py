"""``opau-export``: from a trained model to a verified ONNX file (equal within a rounding bound)."""

# No `from __future__ import annotations` with heavy types here: typer reads the annotations at run time, and this module
# must import nothing heavy, so that --help answers at once.

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import DIFFERENT, EQUAL, HELP, command_app, console, fail, failing, steps
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
from opau_onnx.config import ExportConfig, ToleranceConfig

app = command_app()

_FILE = "Contents of the file"


@app.command(context_settings=HELP)
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
        int | None, option("ONNX opset, 18 to the newest that onnxruntime here runs; default: 20, or 22 for bfloat16.", _FILE)
    ] = None,
    dtype: Annotated[
        str | None, option("float32, float16, bfloat16 or float64 (fp16, bf16 ..); default: the model's own.", _FILE)
    ] = None,
    dynamic_axes: Annotated[
        list[str] | None,
        option(
            "INPUT:AXIS=NAME[,AXIS=NAME], e.g. x:0=batch,2=height; once for each input. "
            "Default: axis 0 of every input is dynamic.",
            _FILE,
        ),
    ] = None,
    static: Annotated[bool, option("Fix all sizes.", _FILE, "--static")] = False,
    external_data: Annotated[
        bool | None,
        option("Weights in OUTPUT.onnx.data; default: only beyond 2 GB.", _FILE, "--external-data/--no-external-data"),
    ] = None,
    input_names: Annotated[str | None, option("Of the file's inputs, all in order.", _FILE, metavar="NAME[,NAME]")] = None,
    output_names: Annotated[str | None, option("Of the file's outputs, all in order.", _FILE, metavar="NAME[,NAME]")] = None,
    collapse: Annotated[
        str | None,
        option("Turn the activations into fixed functions, as opau-collapse does: standard, fused.", _FILE, metavar="FORM"),
    ] = None,
    report: Report = None,
    no_validate: Annotated[bool, option("Do not compare the file with PyTorch.", VALIDATION, "--no-validate")] = False,
    validate_only: Annotated[
        bool, option("Compare an existing OUTPUT with MODEL; write nothing.", VALIDATION, "--validate-only")
    ] = False,
    atol: Atol = None,
    rtol: Rtol = None,
    samples: RandomRows = 16,
    seed: Seed = 0,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Export a trained model with learned activations to one ONNX file, and verify it (equal within a rounding bound).

    Exit codes: 0 exported and equal; 1 not equal (the file is kept as NAME.rejected.onnx); 2 usage or load error.
    """
    if validate_only and no_validate:
        fail("--validate-only and --no-validate exclude each other")
    if validate_only and collapse:
        fail("--validate-only and --collapse exclude each other; opau-collapse compares what it writes")
    config = ExportConfig(
        opset=opset, dtype=dtype, dynamic_axes=_axes(dynamic_axes) if dynamic_axes else None, static=static,
        external_data=external_data, validate=not no_validate, options=ToleranceConfig(atol, rtol, samples, seed),
        input_names=_names(input_names), output_names=_names(output_names),
    )  # fmt: skip
    reading = Reading(factory, input_shapes(input_shape), allow_pickle, key, strip_prefix, inputs)
    source, result = _run(_Task(model, output, reading, config, report, validate_only, collapse), verbose=verbose)
    from opau_onnx.cli import collapse_output, export_output
    from opau_onnx.export.api import ExportResult

    if isinstance(result, ExportResult):
        export_output.show(result, verbose=verbose, validate_only=validate_only)
    else:
        export_output.adopted(console(), source)
        collapse_output.show(result, verbose=verbose)
    raise typer.Exit(DIFFERENT if result.equal is False else EQUAL)


@dataclass(frozen=True)
class _Task:
    """One call of the command."""

    model: Path
    output: Path
    reading: Reading
    config: ExportConfig
    report: Path | None
    validate_only: bool
    collapse: str | None


def _run(task: _Task, *, verbose: bool) -> Any:
    """Load, then export (and collapse) or compare; errors of ours end the command with a message, code 2."""
    logging.getLogger("opau_onnx").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    with steps(verbose=verbose) as step, failing(task.output, verbose=verbose):
        step("loading PyTorch")
        from opau_onnx.export.api import export_model, validate_model
        from opau_onnx.io.atomic import write_json
        from opau_onnx.native.library import say_if_missing

        say_if_missing()
        step(f"reading {task.model}")
        source = task.reading.load(task.model)
        if task.validate_only:
            step("comparing with PyTorch")
            result = validate_model(source, task.output, options=task.config.options)
            if task.report is not None:
                write_json(task.report, result)
            return source, result
        if task.collapse is None:
            return source, export_model(source, task.output, settings=task.config, report=task.report, progress=step)
        from opau_onnx.collapse.api import export_collapsed

        return source, export_collapsed(
            source, task.output, task.collapse, settings=task.config, report=task.report, progress=step
        )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


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
