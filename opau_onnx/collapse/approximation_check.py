"""A file whose activations may change by a tolerance against the one it came from, on real data.

Random inputs say nothing here: they leave the range that the approximations are made for. The outputs may differ as
:class:`opau_onnx.compare.references.ShiftedReference` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx.collapse.approximation.ranges import BATCH, run, shifted
from opau_onnx.compare.agreement import TopKAgreement, agreement_of, are_classes
from opau_onnx.compare.loop import compare_batches
from opau_onnx.compare.references import ShiftedReference, flatten
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import Comparison
from opau_onnx.config import ToleranceConfig
from opau_onnx.io.samples import Samples

MOST = 10_000
"""Samples that are compared."""


def compare_approximation(
    before: Path,
    after: Path,
    samples: Samples,
    tolerance: float,
    config: ToleranceConfig,
    module: torch.nn.Module | None = None,
) -> tuple[list[Comparison], dict[str, TopKAgreement]]:
    """Compare outputs, and predictions where an output holds classes.

    Args:
        before, after: the files.
        samples: of which at most :data:`MOST` are taken.
        tolerance: of each activation.
        config: tolerances given by the user replace the measured ones.
        module: PyTorch model whose outputs are expected; None for those of ``before``.

    Returns:
        The comparisons, and by output's name the agreement of the predictions.

    Raises:
        ValidationError: a file cannot be run on the samples.
    """
    samples = samples.first(MOST)
    model = ir.load(before)
    names = [str(v.name) for v in model.graph.outputs]
    collapsed = _Whole(ir.load(after), samples)
    reference = ShiftedReference(
        _Whole(model, samples), [_Whole(moved, samples) for moved in shifted(before, tolerance)], "",
        None if module is None else _Chunks(module),
    )  # fmt: skip
    batch = [torch.from_numpy(np.ascontiguousarray(x)) for x in samples.inputs]
    found = compare_batches(collapsed, [(reference, "")], names, [(samples.source, batch)], config)
    expected = [e.values for e in reference.expect(batch)]
    pairs = zip(names, expected, collapsed.run(batch), strict=True)
    return found, {name: agreement_of(got, want) for name, want, got in pairs if are_classes(want)}


class _Whole(Runtime):
    """A model that is run once on all samples, batch by batch, however often it is asked."""

    def __init__(self, model: ir.Model, samples: Samples) -> None:
        self.model, self.samples, self.kept = model, samples, list[Any]()

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """The outputs on all samples; ``inputs`` are these."""
        if not self.kept:
            parts = [list(part.values()) for part in run(self.model, self.samples)]
            self.kept = [np.concatenate(values) for values in zip(*parts, strict=True)]
        return self.kept


class _Chunks:
    """A PyTorch model on many samples, batch by batch, in its own dtype."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        self.kept: list[Tensor] = []

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        if not self.kept:
            cast = [x.to(self.dtype) if x.is_floating_point() else x for x in inputs]
            with torch.no_grad():
                parts = [flatten(self.module(*(x[s : s + BATCH] for x in cast))) for s in range(0, len(cast[0]), BATCH)]
            self.kept = [torch.cat(values) for values in zip(*parts, strict=True)]
        return self.kept
