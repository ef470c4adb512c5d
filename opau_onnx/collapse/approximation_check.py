"""A file whose activations may change by a tolerance against the one it came from, on real data.

Random inputs say nothing here: they leave the range that the approximations are made for. The outputs may differ by
:data:`FACTOR` times what they move when every activation's result is moved by the tolerance (up, down and at random), and by
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.collapse.approximation.ranges import run, shifted
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, Comparison
from opau_onnx.compare.validation import RESULT_ROUNDINGS, ToleranceConfig, compare_output, largest
from opau_onnx.io.samples import Samples

FACTOR = 2.0
MOST = 10_000
"""Samples that are compared."""


@dataclass(frozen=True)
class Agreement:
    """Of the classes that two models give: an output's largest entry in each row.

    Attributes:
        output: name.
        rows: how many were compared.
        differ: how many rows have another class.
    """

    output: str
    rows: int
    differ: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compare_changed(
    before: Path,
    after: Path,
    samples: Samples,
    tolerance: float,
    options: ToleranceConfig,
    reference: torch.nn.Module | None = None,
) -> tuple[list[Comparison], list[Agreement]]:
    """Compare outputs and classes.

    Args:
        before, after: the files.
        samples: of which at most :data:`MOST` are taken.
        tolerance: of each activation.
        options: tolerances given by the user replace the measured ones.
        reference: whose outputs are expected; None for those of ``before``.

    Raises:
        ValidationError: a file cannot be run on the samples.
    """
    samples = samples.first(MOST)
    model = ir.load(before)
    plain, got = _all(run(model, samples)), _all(run(ir.load(after), samples))
    expected = plain if reference is None else dict(zip(plain, _torch(reference, samples), strict=True))
    moved = dict.fromkeys(plain, 0.0)
    for other in shifted(before, tolerance):
        for name, values in _all(run(other, samples)).items():
            moved[name] = max(moved[name], largest(np.abs(_wide(values) - _wide(plain[name]))))
    found, agreements = [], []
    for name, want in expected.items():
        kind = str(plain[name].dtype)
        rounding = RESULT_ROUNDINGS * UNIT_ROUNDOFF.get(kind, 0.0) * largest(np.abs(_wide(want)))
        text, limit = f"{name}, {samples.source}", FACTOR * moved[name] + rounding
        found.append(compare_output(text, _wide(want), _wide(got[name]), limit, _known(kind), options))
        if want.ndim == 2 and want.shape[1] > 1 and np.issubdtype(_wide(want).dtype, np.floating):
            differ = int((_wide(want).argmax(axis=1) != _wide(got[name]).argmax(axis=1)).sum())
            agreements.append(Agreement(name, len(want), differ))
    return found, agreements


def _all(parts: Any) -> dict[str, Any]:
    collected: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in part.items():
            collected.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in collected.items()}


def _torch(model: torch.nn.Module, samples: Samples) -> Sequence[Any]:
    from opau_onnx.collapse.approximation.ranges import BATCH
    from opau_onnx.compare.validation import flatten

    kept: list[list[Any]] = []
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with torch.no_grad():
        for start in range(0, len(samples), BATCH):
            batch = [torch.from_numpy(np.ascontiguousarray(x[start : start + BATCH])) for x in samples.inputs]
            batch = [x.to(kind) if x.is_floating_point() else x for x in batch]
            kept.append([t.double().numpy() for t in flatten(model(*batch))])
    return [np.concatenate(values) for values in zip(*kept, strict=True)]


def _wide(values: Any) -> Any:
    return np.asarray(values, dtype=np.float64)


def _known(kind: str) -> str:
    return kind if kind in UNIT_ROUNDOFF else "float32"
