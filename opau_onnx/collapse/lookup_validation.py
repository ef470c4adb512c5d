"""A file with tables against its quantized model, bit for bit; and against the float model, by classes on real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.collapse import files, lookup_check
from opau_onnx.collapse.lookup_check import TableCheck
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.collapse.quantize import runs
from opau_onnx.compare.agreement import agreement_of, are_classes
from opau_onnx.compare.batches import random_batches
from opau_onnx.compare.examples import file_runs
from opau_onnx.compare.file_reference import FileReference
from opau_onnx.compare.loop import compare_batches
from opau_onnx.compare.opening import open_runtime
from opau_onnx.compare.references import flatten
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.compare.sizes import size_batches
from opau_onnx.compare.tensors import Comparison
from opau_onnx.compare.validation import Validation
from opau_onnx.config import ToleranceConfig
from opau_onnx.core.reports import Reported
from opau_onnx.errors import ValidationError
from opau_onnx.graph.axes import open_axes
from opau_onnx.io.samples import Samples

MOST, EXACT = 10_000, 1_024
"""Samples whose classes are compared; samples whose outputs are compared bit for bit."""
_FROM = ", from sample "


@dataclass(frozen=True)
class Drift(Reported):
    """How far quantization moves one output of the float model, on the data.

    Attributes:
        output, rows: name, and how many samples.
        data: what they are: none of those that calibrated, where there are others.
        reference: what the float model is.
        differ: samples with another class (largest entry); None where the output holds no classes.
        minimum: the smallest share of samples with the same class that is allowed.
        accuracy: share of right classes of "float", "quantized" and "collapsed"; empty where labels are not known.
        max_abs_error, mean_abs_error: of the outputs themselves; stated, not judged.
    """

    derived = ("agreement", "equal")

    output: str
    rows: int
    data: str
    reference: str
    differ: int | None
    minimum: float
    accuracy: dict[str, float]
    max_abs_error: float
    mean_abs_error: float

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same class."""
        return None if self.differ is None else 1.0 - self.differ / self.rows

    @property
    def equal(self) -> bool:
        """The verdict; an output without classes is not judged."""
        return self.agreement is None or self.agreement >= self.minimum


@dataclass(frozen=True)
class LutValidation(Validation):
    """Validation of a lookup form; ``drift`` is empty where there is no float model to compare with."""

    drift: Sequence[Drift] = ()

    @property
    def equal(self) -> bool:
        """The verdict over everything."""
        return super().equal and all(d.equal for d in self.drift)


@dataclass(frozen=True)
class Float:
    """The model before quantization.

    Attributes:
        model: an ONNX file or a PyTorch module.
        minimum: the smallest share of samples with the same class.
    """

    model: Path | torch.nn.Module
    minimum: float


def validate(
    replaced: Sequence[CollapsedActivation], before: Path, after: Path, inputs: Sequence[torch.Tensor],
    options: ToleranceConfig, *, samples: Samples | None, exact: Float | None, calibrated: int = 0,
) -> LutValidation:  # fmt: skip
    """Compare.

    Where every activation is a table, both files must give the same bits when onnxruntime runs the operators as they are
    written (with its optimisations off: those regroup the integer arithmetic around the activations).

    Args:
        replaced: the activations.
        before, after: the quantized model and the collapsed one.
        inputs: example inputs.
        options: ``atol`` and ``rtol`` are allowed between the two files; without them nothing, or, where an activation is no
            table, what :mod:`opau_onnx.collapse.files` measures.
        samples: real inputs, which are compared too.
        calibrated: how many of them, the first, calibrated the quantized model: labels are counted on the others.
        exact: the model before quantization; needs samples.

    Raises:
        ValidationError: a file cannot be run.
    """
    model = ir.load(after)
    checks = [lookup_check.check(model, r) for r in replaced]
    if all(isinstance(c, TableCheck) for c in checks):
        found = _same(before, after, inputs, options, samples)
    else:
        found = files.compare_files(before, after, inputs, options)
    drift = [] if exact is None or samples is None else _drift(exact, before, after, samples.held_out(calibrated).first(MOST))
    runtime, reference, outputs = found
    return LutValidation(runtime, reference.replace("the original file", "the quantized model"), checks, outputs, drift=drift)


def _same(
    before: Path, after: Path, inputs: Sequence[torch.Tensor], config: ToleranceConfig, samples: Samples | None
) -> tuple[str, str, list[Comparison]]:
    model = ir.load(before)
    quantized, collapsed = (_as_written(path, inputs) for path in (before, after))
    axes = open_axes(model)
    cases: list[tuple[str, Sequence[torch.Tensor]]] = list(random_batches(inputs, axes, config))
    cases += size_batches(inputs, axes, config.seed, file_runs(quantized)).batches
    if samples is not None:
        kept = samples.first(EXACT)
        text = f"{len(kept):,} samples of {kept.source}"
        cases += [(f"{text}{_FROM}{rows.start}", _batch(kept, rows)) for rows in runs(model, kept)]
    reference = FileReference(before, inputs, config.seed, runtime=quantized, exact=True)
    names = [str(v.name) for v in model.graph.outputs]
    found = compare_batches(collapsed, [(reference, "")], names, cases, config)
    text = "operators as written"
    return f"{collapsed.description}, {text}", f"{reference.description}, {text}", _merged(found)


def _as_written(path: Path, inputs: Sequence[torch.Tensor]) -> Runtime:
    try:
        runtime = OnnxRuntime(path, optimize=False)
        runtime.run(inputs)
    except ValidationError:  # the ReferenceEvaluator, or the same message again
        return open_runtime(path, inputs)
    return runtime


def _batch(samples: Samples, rows: slice) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(x[rows])) for x in samples.inputs]


def _drift(exact: Float, before: Path, after: Path, samples: Samples) -> list[Drift]:
    """One for each output."""
    model = ir.load(after)
    parts = runs(model, samples)
    models = {"float": _runner(exact.model), "quantized": OnnxRuntime(before).run, "collapsed": OnnxRuntime(after).run}
    outputs = {name: _all(run, samples, parts) for name, run in models.items()}
    reference = f"PyTorch {torch.__version__}" if isinstance(exact.model, torch.nn.Module) else exact.model.name
    found = []
    for i, value in enumerate(model.graph.outputs):
        each = {name: results[i] for name, results in outputs.items()}
        want, got = each["float"], each["collapsed"]
        error = np.abs(want - got)
        differ, accuracy = None, {}
        if are_classes(want):
            labels = None if samples.labels is None else samples.labels[: len(want)]
            agreements = {name: agreement_of(values, want, labels) for name, values in each.items()}
            differ = agreements["collapsed"].differing
            accuracy = {} if labels is None else {n: a.right / a.known for n, a in agreements.items()}
        largest, mean = float(error.max(initial=0.0)), float(error.mean()) if error.size else 0.0
        found.append(
            Drift(str(value.name), len(want), samples.source, reference, differ, exact.minimum, accuracy, largest, mean)
        )
    return found


def _runner(model: Path | torch.nn.Module) -> Any:
    if isinstance(model, Path):
        return OnnxRuntime(model).run
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def run(inputs: Sequence[torch.Tensor]) -> list[Any]:
        with torch.no_grad():
            return flatten(model(*(x.to(kind) if x.is_floating_point() else x for x in inputs)))

    return run


def _all(run: Any, samples: Samples, parts: Sequence[slice]) -> list[Any]:
    """Every output over all samples, in float64."""
    found = [run(_batch(samples, rows)) for rows in parts]
    return [np.concatenate([np.asarray(v, dtype=np.float64) for v in values]) for values in zip(*found, strict=True)]


def _merged(outputs: Sequence[Comparison]) -> list[Comparison]:
    """Of comparisons on parts of the data, the one that is furthest off."""
    kept: dict[str, Comparison] = {}
    for comparison in outputs:
        key = comparison.name.partition(_FROM)[0]
        known = kept.get(key)
        if known is None or comparison.tolerance_used > known.tolerance_used:
            elements = comparison.elements + (known.elements if known else 0)
            kept[key] = replace(comparison, name=key, elements=elements)
        else:
            kept[key] = replace(known, elements=known.elements + comparison.elements)
    return list(kept.values())
