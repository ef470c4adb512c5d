"""Running everything on everything: the outputs of each runtime against the reference's, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.compare.agreement import TopKAgreement, are_classes
from opau_onnx.compare.batches import Batch, Batches
from opau_onnx.compare.hooks import activation_hooks
from opau_onnx.compare.loop import compare_output, failed
from opau_onnx.compare.policies import largest
from opau_onnx.compare.references import Expected, Reference
from opau_onnx.compare.runtime import VerifiedRuntime
from opau_onnx.compare.sketches import Watcher
from opau_onnx.compare.statistics import ErrorStatistics, relative
from opau_onnx.compare.tensors import Comparison, distances, spacing
from opau_onnx.config import ToleranceConfig
from opau_onnx.core.reports import Reported
from opau_onnx.errors import ValidationError
from opau_onnx.nn.casting import DTYPES, cast_inputs


@dataclass
class OutputErrors(Reported):
    """The errors of one output in one runtime.

    Attributes:
        name: of the output.
        worst: the comparison of the batch that uses most of its tolerance.
        batch, sample: where it was; the sample is None where rows are no samples.
        equal: the verdict over all batches.
        absolute, relative, ulp: of every element; ULP are those of the largest value in a batch.
    """

    derived = ("histogram",)

    name: str
    worst: Comparison | None = None
    batch: str = ""
    sample: int | None = None
    equal: bool = True
    absolute: ErrorStatistics = field(default_factory=ErrorStatistics)
    relative: ErrorStatistics = field(default_factory=ErrorStatistics)
    ulp: ErrorStatistics = field(default_factory=ErrorStatistics)

    def add(self, batch: Batch, expected: Expected, got: Any, kind: str, options: ToleranceConfig) -> Comparison:
        """Compare a batch."""
        want, got = np.asarray(expected.values), np.asarray(got, dtype=np.float64)
        found = compare_output(f"{self.name}, {batch.name}", expected, got, kind, options)
        if want.shape == got.shape:
            errors = distances(want, got)
            unit = float(spacing(np.asarray(largest(np.abs(want))), kind))
            self.absolute.add(errors)
            self.relative.add(relative(errors, want))
            self.ulp.add(errors / unit)
        if self.worst is None or found.tolerance_used > self.worst.tolerance_used:
            self.worst, self.batch, self.sample = found, batch.name, None
            if batch.start is not None and found.worst_index and want.shape[0] == batch.rows:
                self.sample = batch.start + found.worst_index[0]
        self.equal = self.equal and found.equal
        return found

    def fail(self, batch: Batch, reason: str, kind: str) -> None:
        """Note a batch on which there was no output."""
        self.equal, self.batch, self.sample = False, batch.name, None
        self.worst = failed(f"{self.name}, {batch.name}: {reason}", kind)

    @property
    def histogram(self) -> dict[str, Any]:
        """Of the absolute errors."""
        return self.absolute.histogram()


@dataclass
class Run:
    """A file in one runtime.

    Attributes:
        name: of the runtime.
        names: of the file's outputs.
        reason: why it did not run; "" where it did.
        applicable: False where there was nothing for it to do.
        record: version, device, provider, implementation.
        seconds, samples: spent, and seen.
        outputs: one for each output.
        labels: where they were counted.
        needed: the share of the tolerance that each batch used.
    """

    name: str
    names: Sequence[str] = ()
    reason: str = ""
    applicable: bool = True
    runtime: VerifiedRuntime | None = None
    record: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0
    outputs: list[OutputErrors] = field(default_factory=list)
    labels: TopKAgreement | None = None
    needed: list[float] = field(default_factory=list)

    def agrees(self, least: float | None) -> bool:
        """True where enough predictions are PyTorch's; None asks for all."""
        return self.labels is None or self.labels.agreement >= (1.0 if least is None else least)

    def equal(self, least: float | None) -> bool:
        """True where it ran and is equal to PyTorch."""
        ran = not self.reason and bool(self.outputs)
        return ran and all(output.equal for output in self.outputs) and self.agrees(least)

    @property
    def done(self) -> bool:
        """True where its time budget is spent."""
        limit = self.runtime.seconds if self.runtime is not None else None
        return limit is not None and self.samples > 0 and self.seconds >= limit


@dataclass
class ReferenceRun:
    """PyTorch itself, or the ONNX file that others are compared with.

    Attributes:
        rounding: of each output, its float32 result (or what it is compared in) against its float64 result; none of a file.
        labels: where they were counted.
        seconds: of all its runs, those that measure the tolerance included.
    """

    rounding: list[ErrorStatistics] = field(default_factory=list)
    labels: TopKAgreement | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """Arguments of :func:`run_batches`.

    Attributes:
        batches: the inputs.
        reference: PyTorch, or a file.
        dtype: of the files' floating inputs.
        runs: the open runtimes, of one file or of several of one dtype.
        options: of the comparison.
        agreement: whether labels are counted.
        watched: the module whose activations' inputs are sketched, and by what; None for a file.
    """

    batches: Batches
    reference: Reference
    dtype: torch.dtype
    runs: Sequence[Run]
    options: ToleranceConfig
    agreement: bool
    watched: tuple[nn.Module, Watcher] | None = None


def run_batches(work: Work, progress: Callable[[str], None]) -> ReferenceRun:
    """Run the reference and every runtime on every batch; what was found stands in ``work.runs``.

    Raises:
        ValidationError: the reference cannot run on the inputs, or a file has other outputs.
    """
    own, seen, classes = ReferenceRun(), 0, None
    for batch, rounded, expected in _expected(work, own):
        inputs = cast_inputs(rounded, work.dtype)
        if classes is None and work.agreement:
            classes = _classes(expected)
        if classes is not None:
            own.labels = own.labels or TopKAgreement()
            _count(own.labels, batch, expected[classes].values, expected[classes].values)
        for run in work.runs:
            if not run.reason and not run.done:
                progress(f"{run.name}, sample {seen:,} of {work.batches.samples:,}")
                _run_batch(work, run, batch, inputs, expected, classes)
        seen += batch.rows
    return own


def _expected(work: Work, own: ReferenceRun) -> Iterator[tuple[Batch, Sequence[Tensor], list[Expected]]]:
    """Each batch, its inputs in the coarser dtype of the two sides, and the outputs that are expected."""
    dtype = DTYPES[work.reference.kind]
    labelled = ((f"{work.batches.source}, {batch.name}", cast_inputs(batch.inputs, dtype)) for batch in work.batches.parts)
    results = work.reference.expect_all(labelled)
    for batch in work.batches.parts:
        begin = time.perf_counter()
        with activation_hooks(*work.watched) if work.watched else nullcontext():
            found = next(results)
        own.seconds += time.perf_counter() - begin
        if any(one.exact is not None for one in found):
            own.rounding = own.rounding or [ErrorStatistics() for _ in found]
        for statistics, one in zip(own.rounding, found, strict=False):
            if one.exact is not None:
                statistics.add(distances(one.exact, one.values))
        yield batch, cast_inputs(batch.inputs, dtype), found


def _classes(expected: Sequence[Expected]) -> int:
    """Which output holds one number for each class."""
    for i, found in enumerate(expected):
        if are_classes(found.values):
            return i
    shapes = ", ".join(str(np.shape(e.values)) for e in expected)
    raise ValidationError(
        f"labels are to be compared, but no output has shape (N, classes), only {shapes}; leave out labels and --min-agreement"
    )


def _count(labels: TopKAgreement, batch: Batch, values: Any, expected: Any) -> None:
    if batch.labels is not None:
        count = np.shape(expected)[1]
        wrong = [int(v) for v in batch.labels if not 0 <= v < count]
        if wrong:
            raise ValidationError(f"the data hold the label {wrong[0]}, but the model has {count} classes")
    labels.add(batch.start or 0, values, expected, batch.labels)


def _run_batch(
    work: Work, run: Run, batch: Batch, inputs: Sequence[Any], expected: Sequence[Expected], classes: int | None
) -> None:
    assert run.runtime is not None
    if len(run.names) != len(expected):
        raise ValidationError(f"a file has {len(run.names)} outputs, the model returns {len(expected)}; is it of this model?")
    begin = time.perf_counter()
    try:
        found = run.runtime.run(inputs)
    except ValidationError as error:
        if not run.samples:
            run.reason, run.outputs, run.labels = str(error), [], None
            return
        # It ran on other batches, and the model runs on this one: there the file is another one.
        for output in run.outputs:
            output.fail(batch, str(error), work.reference.kind)
        run.needed.append(0.0)  # nothing to look into
        return
    run.seconds += time.perf_counter() - begin
    run.samples += batch.rows
    run.outputs = run.outputs or [OutputErrors(name) for name in run.names]
    used = [
        output.add(batch, want, got, work.reference.kind, work.options)
        for output, want, got in zip(run.outputs, expected, found, strict=True)
    ]
    run.needed.append(max((c.tolerance_used for c in used), default=0.0))
    if classes is not None and np.shape(found[classes]) == np.shape(expected[classes].values):
        run.labels = run.labels or TopKAgreement()
        _count(run.labels, batch, found[classes], expected[classes].values)
