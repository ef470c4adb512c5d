"""``collapse_model``: an ONNX file with learned activations -> one with fixed functions, verified within a rounding bound."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from opau_onnx.collapse.approximation.approximate import ApproximationBudget
from opau_onnx.collapse.approximation.ranges import activation_ranges
from opau_onnx.collapse.forms import CollapsePass, form_of, remove_unused
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.collapse.quantize import Quantized, quantized
from opau_onnx.collapse.result import CollapseResult, records
from opau_onnx.collapse.validation import compared, read_calibration, read_data
from opau_onnx.config import Data, ExportConfig, QuantizationConfig, ValidationConfig
from opau_onnx.core.spec import DOMAIN, OP_TYPE
from opau_onnx.errors import CollapseError, ExportError
from opau_onnx.export.api import ExportResult, export_model
from opau_onnx.graph import save
from opau_onnx.graph.metadata import METADATA, RECORD
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.graph.whole import read_model, whole_file
from opau_onnx.io.atomic import write_json
from opau_onnx.io.source import Source


def collapse_model(
    source: str | Path,
    output: str | Path,
    form: str = "standard",
    *,
    tolerance: float = 0.0,
    data: Data | str | Path | None = None,
    quantizing: QuantizationConfig | None = None,
    comparing: ValidationConfig | None = None,
    report: str | Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> CollapseResult:
    """Turn the learned activations of an ONNX file into fixed functions.

    Args:
        source: a file that holds ``ai.opau`` nodes with constant coefficients; it is not touched.
        output: the .onnx file to write.
        form: both are right for every input and exact up to rounding. "standard": operators of ONNX's default domain only.
            "fused": one node for each activation, with constant coefficients and the affine (BatchNormalization, Mul, Add)
            before it; our library has kernels for it, and a function body serves runtimes without. "lut", for quantized models:
            a look-up in a table of all codes, equal to the nodes that it replaces bit for bit.
        tolerance: how much each activation's result may change, for every input in the range that ``data`` reaches (and a
            quarter of its width beyond): then the cheapest function that is proven to stay within it takes its place.
        data: real inputs; needed where there is a tolerance, and to quantize.
        quantizing: quantize the model first, with onnxruntime's static quantization; with the form "lut".
        comparing: with what to compare.
        report: a JSON file to write besides.
        progress: called with a short text before each step.

    Returns:
        What was written. Where ``result.equal`` is False the file stands under ``result.path``, "NAME.rejected.onnx", and
        ``output`` was not touched.

    Raises:
        CollapseError: there is nothing to collapse, or it cannot be collapsed; nothing is written then.
        ExportError, LoadError, ValidationError: the source or the reference cannot be read, the output not written, the files
            not compared.
    """
    source, output, comparing = Path(source), Path(output), comparing or ValidationConfig()
    _check_paths(source, output)
    data = data if data is None or isinstance(data, Data) else Data(data)
    form_of(form)
    check_tolerance(tolerance, data)
    check_quantizing(form, quantizing, data, comparing)
    progress(f"reading {source}")
    samples = None if quantizing is None or data is None else read_calibration(data, _read(source))
    if samples is not None:
        progress("quantizing")
    with whole_file(source) as whole, quantized(whole, quantizing, samples) as made:
        result = _collapse(whole, made, output, form, tolerance, data, comparing, progress)
        result = replace(result, source=source)
        if report is not None:
            write_json(Path(report), result)
    return result


def _collapse(
    given: Path, made: Quantized | None, output: Path, form: str, tolerance: float, data: Data | None,
    comparing: ValidationConfig, progress: Callable[[str], None],
) -> CollapseResult:  # fmt: skip
    source = made.path if made else given
    model, external = _read(source), _has_external_data(source)
    allowed = _allowed(source, model, tolerance, data, progress)
    progress("choosing how to evaluate each activation")
    collapse = CollapsePass(form_of(form), allowed)
    collapse(model)
    replaced = collapse.replaced
    clean(model, form, replaced)
    with save.staging(output) as folder:
        staged = folder / output.name
        save.save(model, staged, external=external or save.weight_bytes(model) > save.PROTOBUF_LIMIT)
        result = CollapseResult(given, output, output, form, replaced, None, tolerance=tolerance, quantized=made)
        if not comparing.skip:
            result = compared(result, staged, comparing, data, progress)
            if not result.equal:
                staged = folder / result.path.name
                save.save(model, staged, external=external)
        save.publish(staged, result.path)
    return result


def export_collapsed(
    source: Source, output: Path, form: str, *, settings: ExportConfig, tolerance: float = 0.0,
    data: Data | None = None, report: str | Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> CollapseResult | ExportResult:  # fmt: skip
    """Export a model and collapse the file in one go; both steps are compared with the model, as the settings say.

    Returns:
        The second step's result; the first one's where that was not equal: then the rejected file is the exported one.

    Raises:
        As :func:`opau_onnx.export_model` and :func:`collapse_model`.
    """
    if form_of(form).quantized:
        raise CollapseError(
            f"the {form} form needs a quantized model, which opau-export does not make: export first, then opau-collapse "
            f"FILE.onnx OUTPUT.onnx --form {form} --quantize --data SAMPLES"
        )
    check_tolerance(tolerance, data)
    with save.staging(output) as folder:
        exported = export_model(source, folder / output.name, settings=settings, progress=progress)
        if exported.equal is False:
            rejected = output.with_name(exported.path.name)
            save.publish(exported.path, rejected)
            return replace(exported, path=rejected, requested=output)
        comparing = ValidationConfig(reference=source, options=settings.options, skip=not settings.validate)
        return collapse_model(
            exported.path, output, form, tolerance=tolerance, data=data, comparing=comparing, report=report, progress=progress
        )


def check_tolerance(tolerance: float, data: Data | None) -> None:
    """Raise CollapseError for one that is not a number of at least 0, or that has no data."""
    if not 0.0 <= tolerance < float("inf"):
        raise CollapseError(f"the tolerance is {tolerance}; expected a number of at least 0")
    if tolerance and data is None:
        raise CollapseError("a tolerance needs real inputs to know the range it must hold on: give --data (data=)")


def check_quantizing(form: str, quantizing: QuantizationConfig | None, data: Data | None, comparing: ValidationConfig) -> None:
    """Raise CollapseError where quantization lacks its form or data, or a comparison by classes lacks data."""
    quantized_form = form_of(form).quantized
    if quantizing is not None and not quantized_form:
        raise CollapseError(f"the form is {form!r}; a model is quantized for --form lut only")
    if quantizing is not None and data is None:
        raise CollapseError("quantization needs real inputs to know the ranges of all tensors: give --data (data=)")
    if quantized_form and data is None and comparing.reference is not None and not comparing.skip:
        raise CollapseError("a quantized model is compared with a float one by its classes on real inputs: give --data (data=)")
    if not 0.0 <= comparing.min_agreement <= 1.0:
        raise CollapseError(f"the smallest agreement is {comparing.min_agreement}; expected a share from 0 to 1")


def _allowed(
    source: Path, model: ir.Model, tolerance: float, data: Data | None, progress: Callable[[str], None]
) -> ApproximationBudget | None:
    if not tolerance or data is None:
        return None
    progress("reading data")
    samples = read_data(data, model, "train")
    progress("looking at the activations' inputs")
    return ApproximationBudget(tolerance, activation_ranges(source, samples), model.graph.opset_imports[""] or 0)


def clean(model: ir.Model, form: str, replaced: Sequence[CollapsedActivation]) -> None:
    """Drop what nothing uses any more, and say in the file what was done."""
    remove_unused(model)
    for key in [key for key in model.metadata_props if key.startswith(RECORD)]:
        del model.metadata_props[key]
    model.metadata_props[METADATA] = json.dumps({"activations": records(replaced), "form": form}, sort_keys=True)


def _check_paths(source: Path, output: Path) -> None:
    if output.suffix != ".onnx":
        raise CollapseError(f"the output is {output.name!r}; expected a name that ends in .onnx")
    if not source.is_file():
        raise CollapseError(f"{source} does not exist")
    if output.exists() and output.samefile(source):
        raise CollapseError(f"the output {output} is the input; give another name, the original is never touched")
    if not output.parent.is_dir() or output.is_dir():
        raise ExportError(f"cannot write {output}: its folder does not exist, or it is a folder")


def _read(source: Path) -> ir.Model:
    model = read_model(source)
    if METADATA in model.metadata_props:
        form = _collapsed_form(model.metadata_props[METADATA])
        raise CollapseError(f"{source} was collapsed before (form {form!r}); collapse the file that it came from")
    if not opau_nodes(model):
        raise CollapseError(
            f"{source} has no learned activation ({DOMAIN}::{OP_TYPE}) to collapse; opau-export writes files that have"
        )
    return model


def _collapsed_form(record: str) -> str:
    try:
        return str(json.loads(record)["form"])
    except (ValueError, TypeError, KeyError):
        return "unknown"


def _has_external_data(source: Path) -> bool:
    model = ir.load(source)
    return any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())
