"""The collapsed file against PyTorch, or against the file that it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from opau_onnx.collapse import files, isolated, lookup_validation
from opau_onnx.collapse.approximation_check import compare_approximation
from opau_onnx.collapse.forms import form_of
from opau_onnx.collapse.result import CollapseResult
from opau_onnx.collapse.summary import summarize
from opau_onnx.compare.agreement import TopKAgreement
from opau_onnx.compare.examples import example_inputs
from opau_onnx.compare.validation import Validation, validate
from opau_onnx.config import Data, ToleranceConfig, ValidationConfig
from opau_onnx.errors import ValidationError
from opau_onnx.graph.axes import open_axes
from opau_onnx.io.datasets import Split
from opau_onnx.io.samples import Samples, read_samples
from opau_onnx.io.source import Source, load
from opau_onnx.nn.casting import DTYPES, cast_inputs


def read_data(data: Data, model: ir.Model, split: Split) -> Samples:
    """The samples for a model; of training images as many as calibrate."""
    found = read_samples(data.source, [str(v.name) for v in model.graph.inputs], split)
    return found.first(data.calibration) if split == "train" else found


def read_calibration(data: Data, model: ir.Model) -> Samples:
    """The samples to quantize with; others are left to test with."""
    return read_samples(data.source, [str(v.name) for v in model.graph.inputs], "train").calibration(data.calibration)


def compared(
    result: CollapseResult, staged: Path, comparing: ValidationConfig, data: Data | None, progress: Callable[[str], None]
) -> CollapseResult:
    """The result with what was found; its path says whether the file is rejected."""
    origin = comparing.reference
    if origin is not None and not isinstance(origin, Source):
        progress(f"reading {origin}")
        origin = load(Path(origin))
    model = ir.load(staged)
    inputs = example_inputs(model, comparing.input_shapes, comparing.options.seed) if origin is None else origin.inputs
    progress("comparing")
    if form_of(result.form).quantized:
        found = _validate_lut(result, model, staged, origin, inputs, comparing, data)
    elif result.tolerance and data is not None:
        found, agreements = _validate_approximation(result, model, staged, origin, data, comparing.options)
        result = replace(result, agreements=agreements)
    else:
        found = _validate(result, model, staged, origin, inputs, comparing.options)
    progress("timing")
    paths = [result.quantized.path] if result.quantized else []
    before, *between, after = summarize(result.source, staged, cast_inputs(inputs, _dtype(model)), between=paths)
    requested = result.requested
    path = requested if found.equal else requested.with_name(f"{requested.stem}.rejected.onnx")
    return replace(result, path=path, validation=found, before=before, after=after, between=between[0] if between else None)


def _validate(
    result: CollapseResult,
    model: ir.Model,
    staged: Path,
    origin: Source | None,
    inputs: Sequence[Any],
    options: ToleranceConfig,
) -> Validation:
    activations = [isolated.check(model, r) for r in result.replaced]
    if origin is None:
        runtime, reference, outputs = files.compare_files(result.source, staged, inputs, options)
        return Validation(runtime, reference, activations, outputs)
    axes = open_axes(model)
    found = validate(origin.model, staged, inputs, axes, _dtype(model), options, origin.original)
    return Validation(found.runtime, found.reference, activations, found.outputs, found.reason)


def _validate_approximation(
    result: CollapseResult, model: ir.Model, staged: Path, origin: Source | None, data: Data, options: ToleranceConfig
) -> tuple[Validation, dict[str, TopKAgreement]]:
    activations = [isolated.check(model, r) for r in result.replaced]
    module = None if origin is None else origin.model
    outputs, agreements = compare_approximation(
        result.source, staged, read_data(data, model, "test"), result.tolerance, options, module
    )
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__}, CPU"
    reference = f"the original file, {runtime}" if origin is None else f"PyTorch {torch.__version__}, CPU"
    return Validation(runtime, reference, activations, outputs), agreements


def _validate_lut(
    result: CollapseResult, model: ir.Model, staged: Path, origin: Source | None, inputs: Sequence[Any],
    comparing: ValidationConfig, data: Data | None,
) -> Validation:  # fmt: skip
    made = result.quantized
    plain = origin.model if origin is not None else made.source if made else None
    return lookup_validation.validate(
        result.replaced, made.path if made else result.source, staged, inputs, comparing.options,
        samples=None if data is None else read_data(data, model, "test"),
        calibrated=made.samples if made else 0,
        exact=None if plain is None else lookup_validation.Float(plain, comparing.min_agreement),
    )  # fmt: skip


def _dtype(model: ir.Model) -> torch.dtype:
    """Of the file's weights."""
    name = model.metadata_props.get("opau.dtype")
    if name is not None and name not in DTYPES:
        raise ValidationError(f"the file says that it holds {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name or "float32"]
