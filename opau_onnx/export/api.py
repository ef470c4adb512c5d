"""``export_model``: from a trained model to a verified ONNX file (equal within a rounding bound)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from opau_onnx._version import __version__
from opau_onnx.compare.sizes import Limits
from opau_onnx.compare.validation import Validation, validate
from opau_onnx.config import ExportConfig, ToleranceConfig
from opau_onnx.core.reports import plain
from opau_onnx.errors import ExportError
from opau_onnx.export import conversion, program
from opau_onnx.graph import opsets, save
from opau_onnx.graph.axes import Axes, default_axes, open_axes
from opau_onnx.graph.metadata import add_metadata, describe
from opau_onnx.graph.names import rename
from opau_onnx.io.atomic import write_json
from opau_onnx.io.quiet import quiet
from opau_onnx.io.source import Source, as_source
from opau_onnx.nn.casting import (
    DTYPES,
    cast_inputs,
    cast_model,
    dtype_name,
    input_names,
    model_dtype,
    read_dtype,
    tensors_by_name,
)

REPORT_SCHEMA = "opau_onnx.export_report/1"


@dataclass(frozen=True, repr=False)
class ExportResult:
    """Result: the file and its validation.

    Attributes:
        path: the file; where the comparison failed, the one with ".rejected" in its name.
        requested: the path that was asked for.
        opset, dtype: of the file.
        activations: one record for each activation (:func:`opau_onnx.graph.metadata.describe`).
        validation: None where it was not asked for.
        source: where the model came from; its ``adopted`` says which activations were another library's.
        guards: what torch.export took for true of the dynamic sizes, such as "(width % 2) == 0": where the file is not equal,
            these tell at which sizes.
    """

    path: Path
    requested: Path
    opset: int
    dtype: str
    activations: list[dict[str, Any]]
    validation: Validation | None
    source: Source
    guards: Sequence[str] = ()

    def __repr__(self) -> str:
        verdict = "not validated" if self.validation is None else self.validation.verdict
        count = len(self.activations)
        return f"ExportResult({str(self.path)!r}, {verdict}, {self.dtype}, opset {self.opset}, {count} learned activations)"

    @property
    def equal(self) -> bool | None:
        """The verdict; None where nothing was compared."""
        return None if self.validation is None else self.validation.equal

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data; its schema is in docs/export.md."""
        content = {
            "schema": REPORT_SCHEMA,
            "opau_onnx": __version__,
            "source": {"name": self.source.name, "kind": self.source.kind, "sha256": self.source.sha256},
            "file": self.path.name,
            "exported": self.path == self.requested,
            "opset": self.opset,
            "dtype": self.dtype,
            "activations": self.activations,
            "adopted": self.source.adopted,
            "notes": list(self.source.notes),
            "guards": list(self.guards),
            "validation": self.validation or {"verdict": "not validated"},
        }
        return dict(plain(content))


def export_model(
    model: nn.Module | Source | str | Path,
    output: str | Path,
    inputs: Any = None,
    *,
    settings: ExportConfig | None = None,
    report: str | Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
    **options: Any,
) -> ExportResult:
    """Export a model with learned activations to one ONNX file, and compare the file with the model.

    Args:
        model: a module, a file that :func:`opau_onnx.load` reads without further arguments, or its result. Activations of other
            libraries that :func:`opau_onnx.nn.adopt` knows are exported as ours; the module itself is left alone. A Keras model
            on its torch backend is one too.
        output: the .onnx file to write.
        inputs: example inputs for a module, a tensor, positional ones, or a mapping of keyword ones, nested as the module takes
            them (:func:`opau_onnx.io.calling.arguments`); files bring their own.
        settings: how to export; or give its fields as keyword arguments (``opset=20, dtype="float16"``).
        report: a JSON file to write besides.
        progress: called with a short text before each step.
        options: fields of :class:`ExportConfig`.

    Returns:
        What was written. Where ``result.equal`` is False the file stands under ``result.path``, "NAME.rejected.onnx", and
        ``output`` was not touched.

    Raises:
        LoadError, ExportError, ValidationError: nothing is written then.
    """
    settings = ExportConfig(**options) if settings is None else settings
    output = Path(output)
    if output.suffix != ".onnx":
        raise ExportError(f"the output is {output.name!r}; expected a name that ends in .onnx")
    if report is not None:
        _check_writable(Path(report))
    _check_writable(output)
    source = as_source(model, inputs)
    _check_opset(settings.opset)
    dtype, traced, axes = _trace(source, settings, progress)
    kind = dtype_name(dtype)
    opset = settings.opset or opsets.default("bfloat16" if program.has_dtype(traced, torch.bfloat16) else kind)
    progress("converting to ONNX")
    names = [axes.get(i, {}) for i in range(len(source.inputs))]
    outputs = list(source.outputs) if source.outputs else program.output_names(traced)
    exported = conversion.build_model(traced, opset, names, outputs, tensors_by_name(source.model))
    rename(exported, settings.input_names, settings.output_names)
    limits, guards = program.outer_sizes(traced, axes), program.guards(traced, axes)
    add_metadata(exported, source.kind, source.sha256, kind, guards)
    path, validation = _write(exported, output, source, axes, dtype, settings, limits, progress)
    result = ExportResult(path, output, opset, kind, describe(exported), validation, source, guards)
    if report is not None:
        write_json(Path(report), result)
    return result


def _check_writable(path: Path) -> None:
    """Before hours of work, and before one of several files is written."""
    if not path.parent.is_dir():
        raise ExportError(f"cannot write {path}: its folder does not exist")
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder")


def validate_model(
    model: nn.Module | Source | str | Path,
    path: str | Path,
    inputs: Any = None,
    *,
    options: ToleranceConfig | None = None,
) -> ExportResult:
    """Compare an existing ONNX file, exported by this package, with the model; nothing is written.

    Args and errors as :func:`export_model`.
    """
    path = Path(path)
    source = as_source(model, inputs)
    if not path.is_file():
        raise ExportError(f"{path} does not exist")
    try:
        stored = ir.load(path)
    except Exception as error:
        raise ExportError(f"{path} is not a readable ONNX file: {error}") from None
    axes = open_axes(stored)
    kind = stored.metadata_props.get("opau.dtype", "float32")
    if kind not in DTYPES:
        raise ExportError(f"{path} says it holds {kind!r}; expected one of {', '.join(DTYPES)}")
    found = _validate(source, path, axes, DTYPES[kind], options or ToleranceConfig())
    opset = stored.opset_imports.get("", 0)
    return ExportResult(path, path, opset, kind, describe(stored), found, source)


def _validate(
    source: Source, path: Path, axes: Axes, dtype: torch.dtype, options: ToleranceConfig, limits: Limits | None = None
) -> Validation:
    """Against our modules, and against those of other libraries that they were made from."""
    return validate(source.model, path, source.inputs, axes, dtype, options, source.original, limits)


def _check_opset(opset: int | None) -> None:
    if opset is not None and not opsets.OLDEST <= opset <= opsets.newest():
        raise ExportError(f"opset {opset} is not supported; expected {opsets.OLDEST} to {opsets.newest()}")


def _trace(
    source: Source, settings: ExportConfig, progress: Callable[[str], None]
) -> tuple[torch.dtype, torch.export.ExportedProgram, Axes]:
    own = model_dtype(source.model)
    dtype = own if settings.dtype is None else read_dtype(settings.dtype)
    if source.program is not None:
        if dtype != own or settings.dynamic_axes is not None or settings.static:
            raise ExportError(
                f"{source.name} is an exported program: its dtype ({own}) and its dynamic axes were fixed when it was made. "
                "Leave out --dtype, --dynamic-axes and --static, or export from the weights"
            )
        return dtype, source.program, program.program_axes(source.program)
    progress("tracing the model")
    axes = _axes(source, settings)
    with quiet():
        cast = cast_model(source.model, dtype, share=True)
        return dtype, program.trace(cast, cast_inputs(source.inputs, dtype), axes), axes


def _axes(source: Source, settings: ExportConfig) -> Axes:
    if settings.static:
        if settings.dynamic_axes:
            raise ExportError("static and dynamic_axes exclude each other")
        return {}
    if settings.dynamic_axes is None:
        return default_axes(source.inputs)
    names = input_names(source.model, len(source.inputs))
    axes: Axes = {}
    for key, wanted in settings.dynamic_axes.items():
        position = key if isinstance(key, int) else names.index(key) if key in names else -1
        if not 0 <= position < len(source.inputs):
            raise ExportError(f"dynamic axes name the input {key!r}; the model has {', '.join(names)}")
        rank = source.inputs[position].dim()
        if not isinstance(wanted, Mapping):  # torch.onnx.export's older form
            wanted = {axis: "batch" if axis == 0 else f"{names[position]}_{axis}" for axis in wanted}
        for axis in wanted:
            if not 0 <= axis < rank:
                raise ExportError(f"input {names[position]} has axes 0 to {rank - 1}; {axis} is none of them")
        for name in wanted.values():
            if not name.isidentifier():
                raise ExportError(f"a dynamic axis of {names[position]} is named {name!r}; expected letters, digits and _")
        axes[position] = dict(wanted)
    return axes


def _write(
    model: ir.Model, output: Path, source: Source, axes: Axes, dtype: torch.dtype, settings: ExportConfig,
    limits: Limits, progress: Callable[[str], None],
) -> tuple[Path, Validation | None]:  # fmt: skip
    external = settings.external_data
    if external is None:
        external = save.weight_bytes(model) > save.PROTOBUF_LIMIT
    with save.staging(output) as folder:
        progress("writing and checking")
        staged = folder / output.name
        save.save(model, staged, external=external)
        if not settings.validate:
            save.publish(staged, output)
            return output, None
        progress("comparing with PyTorch")
        found = _validate(source, staged, axes, dtype, settings.options, limits)
        if found.equal:
            save.publish(staged, output)
            return output, found
        rejected = output.with_name(f"{output.stem}.rejected.onnx")
        save.save(model, folder / rejected.name, external=external)
        save.publish(folder / rejected.name, rejected)
        return rejected, found
