"""``collapse_model``: an ONNX file with learned activations -> one with fixed functions, proven equal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from opau_onnx._version import __version__
from opau_onnx.collapse import alone, fused, standard, whole
from opau_onnx.collapse.standard import Replaced
from opau_onnx.collapse.summary import Side, summarize
from opau_onnx.errors import CollapseError, ExportError, ValidationError
from opau_onnx.export import write
from opau_onnx.export.api import ExportResult, Settings, export_model
from opau_onnx.export.function import opau_nodes
from opau_onnx.export.program import cast_inputs
from opau_onnx.files import replacing
from opau_onnx.parity.activations import TORCH
from opau_onnx.parity.validate import Options, Validation, validate
from opau_onnx.reading import Source, load
from opau_onnx.spec import DOMAIN, OP_TYPE

FORMS = {"fused": fused.replace_activations, "standard": standard.replace_activations}
METADATA = "opau.collapse"
REPORT_SCHEMA = "opau_onnx.collapse_report/1"


@dataclass(frozen=True)
class CollapseResult:
    """What was written and what was found.

    Attributes:
        source, requested: the file read and the file asked for.
        path: the file written; where the comparison failed, the one with ".rejected" in its name.
        form: as asked.
        replaced: one record for each activation.
        validation: None where it was not asked for.
        before, after: what the files hold and how long they take; None where nothing was run.
    """

    source: Path
    requested: Path
    path: Path
    form: str
    replaced: list[Replaced]
    validation: Validation | None
    before: Side | None = None
    after: Side | None = None

    @property
    def equal(self) -> bool | None:
        """The verdict; None where nothing was compared."""
        return None if self.validation is None else self.validation.equal

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data; its schema is in docs/collapse.md."""
        return {
            "schema": REPORT_SCHEMA,
            "opau_onnx": __version__,
            "source": self.source.name,
            "file": self.path.name,
            "collapsed": self.path == self.requested,
            "form": self.form,
            "activations": records(self.replaced),
            "before": self.before.as_dict() if self.before else None,
            "after": self.after.as_dict() if self.after else None,
            "validation": self.validation.as_dict() if self.validation else {"verdict": "not validated"},
        }


@dataclass(frozen=True)
class Comparing:
    """What to compare the collapsed file with.

    Attributes:
        reference: the PyTorch model (as :func:`opau_onnx.export_model` takes it); None for the file that is collapsed.
        input_shapes: of inputs with open axes other than the first, by name; where there is no reference.
        options: of the comparison.
        skip: compare nothing.
    """

    reference: Source | str | Path | None = None
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    skip: bool = False


def collapse_model(
    source: str | Path,
    output: str | Path,
    form: str = "standard",
    *,
    comparing: Comparing | None = None,
    report: str | Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> CollapseResult:
    """Turn the learned activations of an ONNX file into fixed functions.

    Args:
        source: a file that holds ``ai.opau`` nodes with constant coefficients; it is not touched.
        output: the .onnx file to write.
        form: both are right for every input and exact up to rounding. "standard": operators of ONNX's default domain only.
            "fused": one node for each activation, with constant coefficients and the affine (BatchNormalization, Mul, Add)
            before it; our library has kernels for it, and a function body serves runtimes without.
        comparing: with what to compare.
        report: a JSON file to write besides.
        progress: called with a short text before each step.

    Returns:
        What was written. Where ``result.equal`` is False the file stands under ``result.path``, "NAME.rejected.onnx", and
        ``output`` was not touched.

    Raises:
        CollapseError: there is nothing to collapse, or it cannot be collapsed; nothing is written then.
        ExportError, LoadError, ValidationError: the output cannot be written, the reference not read, the files not compared.
    """
    source, output, comparing = Path(source), Path(output), comparing or Comparing()
    _check_paths(source, output)
    check_form(form)
    progress(f"reading {source}")
    model, external = _read(source), _has_external_data(source)
    progress("choosing how to evaluate each activation")
    replaced = FORMS[form](model)
    clean(model, form, replaced)
    with write.staging(output) as folder:
        staged = folder / output.name
        write.save(model, staged, external=external or write.weight_bytes(model) > write.PROTOBUF_LIMIT)
        result = CollapseResult(source, output, output, form, replaced, None)
        if not comparing.skip:
            result = _compared(result, staged, comparing, progress)
            if not result.equal:
                staged = folder / result.path.name
                write.save(model, staged, external=external)
        if report is not None:
            write_report(result, report)
        write.publish(staged, result.path)
    return result


def export_collapsed(
    source: Source, output: Path, form: str, *, settings: Settings, report: str | Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> CollapseResult | ExportResult:  # fmt: skip
    """Export a model and collapse the file in one go; both steps are compared with the model, as the settings say.

    Returns:
        The second step's result; the first one's where that was not equal: then the rejected file is the exported one.

    Raises:
        As :func:`opau_onnx.export_model` and :func:`collapse_model`.
    """
    check_form(form)
    with write.staging(output) as folder:
        exported = export_model(source, folder / output.name, settings=settings, progress=progress)
        if exported.equal is False:
            rejected = output.with_name(exported.path.name)
            write.publish(exported.path, rejected)
            return replace(exported, path=rejected, requested=output)
        comparing = Comparing(reference=source, options=settings.options, skip=not settings.validate)
        return collapse_model(exported.path, output, form, comparing=comparing, report=report, progress=progress)


def check_form(form: str) -> None:
    """Raise CollapseError for an unknown one."""
    if form not in FORMS:
        raise CollapseError(f"the form is {form!r}; expected one of {', '.join(FORMS)}")


def _compared(
    result: CollapseResult, staged: Path, comparing: Comparing, progress: Callable[[str], None]
) -> CollapseResult:
    origin = comparing.reference
    if origin is not None and not isinstance(origin, Source):
        progress(f"reading {origin}")
        origin = load(Path(origin))
    model = ir.load(staged)
    inputs = whole.example_inputs(model, comparing.input_shapes, comparing.options.seed) if origin is None else origin.inputs
    progress("comparing")
    found = _validate(result, model, staged, origin, inputs, comparing.options)
    progress("timing")
    before, after = summarize(result.source, staged, cast_inputs(inputs, _dtype(model)))
    requested = result.requested
    path = requested if found.equal else requested.with_name(f"{requested.stem}.rejected.onnx")
    return replace(result, path=path, validation=found, before=before, after=after)


def write_report(result: CollapseResult, report: str | Path) -> None:
    """Write a result as JSON; the file appears whole or not at all."""
    with replacing(Path(report)) as temporary:
        temporary.write_text(write.report_text(result.as_dict()))


def records(replaced: Sequence[Replaced]) -> list[dict[str, Any]]:
    """One record for each activation: what it was, how it is evaluated now."""
    return [
        {
            "node": r.node,
            "module": r.module,
            "basis": r.before.config.basis,
            "form": r.before.config.form,
            "degrees": list(r.frozen.config.degrees),
            "groups": r.frozen.config.groups,
            "evaluation": str(r.scheme),
            "operators": r.nodes,
            "absorbed": list(r.absorbed),
        }
        for r in replaced
    ]


def clean(model: ir.Model, form: str, replaced: Sequence[Replaced]) -> None:
    """Drop coefficients and functions that nothing uses any more, and say in the file what was done."""
    for name in [n for n, value in model.graph.initializers.items() if not value.uses() and not value.is_graph_output()]:
        del model.graph.initializers[name]
    for key in [k for k in model.functions if k[:2] == (DOMAIN, OP_TYPE)]:
        del model.functions[key]
    if form == "standard":
        model.graph.opset_imports.pop(DOMAIN, None)
    model.metadata_props.pop("opau.activations", None)
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
    try:
        model = ir.load(source)
    except Exception as error:  # protobuf's own types
        raise CollapseError(f"{source} is not a readable ONNX file: {type(error).__name__}: {error}") from None
    if METADATA in model.metadata_props:
        form = json.loads(model.metadata_props[METADATA]).get("form")
        raise CollapseError(f"{source} was collapsed before (form {form!r}); collapse the file that it came from")
    if not opau_nodes(model):
        raise CollapseError(
            f"{source} has no learned activation ({DOMAIN}::{OP_TYPE}) to collapse; opau-export writes files that have"
        )
    return model


def _has_external_data(source: Path) -> bool:
    model = ir.load(source)
    return any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())


def _validate(
    result: CollapseResult, model: ir.Model, staged: Path, origin: Source | None, inputs: Sequence[Any], options: Options
) -> Validation:
    activations = [alone.check(model, r) for r in result.replaced]
    if origin is None:
        runtime, reference, outputs = whole.compare_files(result.source, staged, inputs, options)
        return Validation(runtime, reference, activations, outputs)
    axes = {
        i: {a: str(d.value) for a, d in enumerate(v.shape or ()) if isinstance(d, ir.SymbolicDim)}
        for i, v in enumerate(model.graph.inputs)
    }
    found = validate(origin.model, staged, inputs, axes, _dtype(model), options)
    return Validation(found.runtime, found.reference, activations, found.outputs)


def _dtype(model: ir.Model) -> torch.dtype:
    """Of the file's weights."""
    name = model.metadata_props.get("opau.dtype")
    kinds = {str(kind).removeprefix("torch."): kind for kind in TORCH.values()}
    if name is not None and name not in kinds:
        raise ValidationError(f"the file says that it holds {name!r}; expected one of {', '.join(kinds)}")
    return kinds[name or "float32"]
