"""Tolerances for the outputs of whole models, side by side.

A whole model's tolerance follows from its conditioning, which is measured on the same input: how far the result moves when
inputs and weights are nudged by a rounding. Rounding errors of another runtime are of the same kind, only ordered differently,
so :data:`ROUNDING_FACTOR` times the largest move is allowed, plus a few roundings of the result itself.

====================  =====================================================================================================
policy                where, and why it differs
====================  =====================================================================================================
measured              PyTorch or the original file against another runtime: :func:`measured`.
given                 ``atol`` or ``rtol`` of the user replace what was measured: :func:`opau_onnx.compare.loop.compare_output`.
bit-exact             tables of quantized activations against the quantized model, with onnxruntime's optimisations off (they
                      regroup integer arithmetic): :data:`EXACT`.
shifted               an activation that may change by a tolerance: :data:`SHIFT_FACTOR` times what the outputs move when every
                      activation's result is moved by it: :func:`shifted`.
silent elements       another library's modules that give NaN or infinity in both precisions say nothing about a file: the
                      elements are left out, and counted: :attr:`opau_onnx.compare.references.Expected.silent`.
NaN apart             a runtime whose arithmetic does not keep NaN is told of, not judged, in an isolated activation:
                      :mod:`opau_onnx.compare.isolated`.
====================  =====================================================================================================

An isolated activation's tolerance is proven, not measured: :func:`rounding_bound`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.core import oracle

ROUNDING_FACTOR = 8.0
"""How many times the largest move by a rounding another runtime may differ."""
RESULT_ROUNDINGS = 8.0
"""Roundings of the result itself, of its largest value."""
NUDGES = 2
"""Draws of nudged weights and inputs: one alone may be lucky, where a model passes all it knows through a single mean."""
SHIFT_FACTOR = 2.0
EXACT = 0.0


def largest(values: Any) -> float:
    """The largest finite number, 0 where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def result_roundings(kind: str, values: Any) -> float:
    """The roundings of a result in dtype ``kind``, at its largest value; 0 for whole numbers."""
    return RESULT_ROUNDINGS * UNIT_ROUNDOFF.get(kind, 0.0) * largest(np.abs(values))


def measured(move: float, kind: str, values: Any) -> float:
    """The tolerance of one output: ``move`` is how far a rounding of ``kind`` moved it."""
    return ROUNDING_FACTOR * move + result_roundings(kind, values)


def shifted(move: float, kind: str, values: Any) -> float:
    """The tolerance of one output whose activations may change: ``move`` is how far a change of all of them moved it."""
    return SHIFT_FACTOR * move + result_roundings(kind, values)


def nudge(values: Any, kind: str, rng: np.random.Generator, *, rounded: bool = True) -> Any:
    """Numbers moved by at most a rounding of ``kind``, in their own dtype.

    Whole numbers stay: they are exact in every runtime, and a model may take them for counts or choices.

    Args:
        values: a floating array.
        kind: name of the dtype whose rounding it is.
        rng: draws the moves.
        rounded: take a whole unit in the last place of float32 for every other number, where the move would be rounded away.
    """
    wide = np.asarray(values).astype(np.float64)
    moved = wide * (1 + UNIT_ROUNDOFF[kind] * rng.uniform(-1, 1, wide.shape))
    if rounded and kind == "float32":
        step = np.nextafter(wide.astype(np.float32), np.float32(np.inf))
        moved = np.where(rng.random(wide.shape) < 0.5, moved, step)
    return np.where(wide == np.round(wide), wide, moved).astype(np.asarray(values).dtype)


def rounding_bound(known: oracle.Evaluation, dtype: str) -> Any:
    """The proven tolerance of an isolated activation, elementwise.

    The oracle bounds the rounding error of an evaluation by the recurrence in float32 (or float64); two such evaluations may
    differ by twice that, and by one rounding each to the output's dtype (and its smallest step).
    """
    compute = "float64" if dtype == "float64" else "float32"
    info, wide = torch.finfo(getattr(torch, dtype)), torch.finfo(getattr(torch, compute))
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(known.value), np.abs(known.value), 0.0)
        rounding = 0.0 if dtype == compute else size * UNIT_ROUNDOFF[dtype]
        lost = known.underflow * wide.smallest_normal * wide.eps
        limit = 2.0 * (known.bound * UNIT_ROUNDOFF[compute] + lost + rounding + info.smallest_normal * info.eps)
        # Close to the largest number one side may overflow and the other not.
        limit = np.where((size > 0.99 * info.max) | ~np.isfinite(limit), np.inf, limit)
        return np.where(np.isfinite(known.value), limit, 0.0)
