"""Tolerances for the outputs of whole models, side by side.

A whole model's tolerance follows from its conditioning, which is measured on the same input: how far the result moves when
inputs and weights are nudged by a rounding. Rounding errors of another runtime are of the same kind, only ordered differently,
so for each element :data:`ROUNDING_FACTOR` times the largest move of its kind (:func:`pooled`) is allowed, plus a few roundings
of the result itself. Whole numbers have no tolerance; those that roundings change, as ties do, are left out.

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

import ml_dtypes
import numpy as np

from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.core import oracle
from opau_onnx.errors import NotComparableError

ROUNDING_FACTOR = 8.0
"""How many times the largest move by a rounding another runtime may differ."""
RESULT_ROUNDINGS = 8.0
"""Roundings of the result itself."""
NUDGES = 2
"""Draws of nudged weights and inputs: one alone may be lucky, where a model passes all it knows through a single mean."""
FLOAT32_NUDGES = 6
"""The same where nothing but float32 can be run."""
CHUNK = 1 << 20
"""Numbers that are nudged at once, which takes several times their memory."""
KIN = {"float64": 1e3, "float32": 1e3, "float16": 64.0, "bfloat16": 16.0}
"""How many times as far another element may have moved to count for this one: few, so that the tolerance stays below the
element, and enough for the luck of three draws."""
FEW = 10.0
"""Times that with two draws, whose luck is greater."""
_STILL = 0.1
"""Of the moves, in order: that of elements which did not move."""
_SMALLEST = {kind: float(np.float64(v)) for kind, v in (
    ("float64", 2.0**-1022), ("float32", 2.0**-126), ("float16", 2.0**-24), ("bfloat16", 2.0**-126)
)}  # fmt: skip
"""What may vanish: some runtimes take subnormal float32 for zero."""
SHIFT_FACTOR = 2.0
ALIKE = 3.0
"""Times as large are tolerances that count as alike."""
VAGUE_SHARE = 0.25
"""Of the elements, for which a tolerance may say nothing."""
LARGEST_SHARE = 0.5
"""A measured tolerance that is a larger share of the largest value than this would allow anything."""
EXACT = 0.0


def largest(values: Any) -> float:
    """The largest finite number, 0 where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def result_roundings(kind: str, values: Any) -> Any:
    """The roundings of a result in dtype ``kind``, of each element; 0 for whole numbers."""
    if kind not in UNIT_ROUNDOFF:
        return np.zeros(np.shape(values))
    sizes = np.where(np.isfinite(values), np.abs(values), 0.0)
    return RESULT_ROUNDINGS * (UNIT_ROUNDOFF[kind] * sizes + _SMALLEST[kind])


def pooled(moves: Any, kin: float) -> Any:
    """How far roundings move each element, from the moves of few draws, in which single elements may be lucky.

    An element's kin are those that were moved up to ``kin`` times as far: the largest move among them counts. So a mask of -1e9
    lends its roundings to nothing else, while an element that hardly moved by chance is judged like its neighbours. What did
    not move at all, as what a ReLU cut off, is judged like the least that did.

    Args:
        moves: elementwise the largest of the draws; NaN and infinity count as none.
        kin: how many times.
    """
    moves = np.where(np.isfinite(moves), moves, 0.0)
    known = np.sort(moves[moves > 0.0], axis=None)
    if not known.size:
        return moves
    still = float(known[int(_STILL * (known.size - 1))])
    reach = known[np.searchsorted(known, kin * np.where(moves > 0.0, moves, still / kin), side="right") - 1]
    return np.where(moves > 0.0, reach, still)


def measured(moves: Any, kind: str, values: Any, *, few: bool = False) -> Any:
    """The tolerance of one output, by element; ``moves`` says how far roundings of ``kind`` moved each, "" whole numbers."""
    if kind not in UNIT_ROUNDOFF:
        return np.zeros(np.shape(values))
    return ROUNDING_FACTOR * pooled(moves, KIN[kind] * (FEW if few else 1.0)) + result_roundings(kind, values)


def undecided(moves: Any, kind: str) -> Any:
    """Mask of the whole numbers that roundings change, as the class of a tie: they say nothing; None where there are none.

    Raises:
        NotComparableError: most of them are so.
    """
    if kind in UNIT_ROUNDOFF or not np.any(moves):
        return None
    changed = np.asarray(moves) != 0.0
    if changed.mean() > LARGEST_SHARE:
        raise NotComparableError(
            f"roundings alone change {int(changed.sum()):,} of {changed.size:,} whole numbers of an output (ties, say): a "
            "comparison shows nothing here; compare what they are taken from"
        )
    return changed


def refuse_vague(name: str, tolerance: Any, values: Any, kind: str = "") -> None:
    """Raise NotComparableError where a measured tolerance says nothing about values of this size.

    An element is held against the largest of those with tolerances like its own or smaller: what a mask of -1e9 allows itself
    hides nothing of the others. Tolerances at the smallest numbers of dtype ``kind`` say what they have to.
    """
    values = np.where(np.isfinite(values), np.abs(values), 0.0).ravel()
    wide = np.asarray(tolerance, dtype=np.float64).ravel()
    wide = np.broadcast_to(wide, values.shape) if wide.size == 1 else wide
    if not values.size:
        return
    order = np.argsort(wide, kind="stable")
    sizes = np.maximum.accumulate(values[order])
    ends = np.searchsorted(wide[order], ALIKE * wide[order], side="right") - 1
    least = 2.0 * RESULT_ROUNDINGS * _SMALLEST.get(kind, 0.0)
    vague = (wide[order] > LARGEST_SHARE * sizes[ends]) & (values[order] > 0.0) & (wide[order] > least)
    allowed, size = float(wide.max(initial=0.0)), largest(values)
    if allowed <= least:
        return
    most = vague.mean() > VAGUE_SHARE and kind not in ("float16", "bfloat16")  # whose small elements are that coarse
    if allowed > LARGEST_SHARE * size or most:
        raise NotComparableError(
            f"{name} is at most {size:.3g}, and roundings alone move it by so much that {allowed:.3g} would have to be "
            f"allowed (too much for {np.count_nonzero(vague):,} of {vague.size:,} elements): a comparison shows nothing here; "
            "compare in float64, or give atol or rtol of your own"
        )


def shifted(move: float, kind: str, values: Any) -> Any:
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
    values = np.asarray(values)
    flat, found = values.reshape(-1), np.empty(values.size, dtype=values.dtype)
    for start in range(0, values.size, CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = _nudged(flat[part], kind, rng, rounded=rounded)
    return found.reshape(values.shape)


def _nudged(values: Any, kind: str, rng: np.random.Generator, *, rounded: bool) -> Any:
    wide = values.astype(np.float64)
    moved = wide * (1 + UNIT_ROUNDOFF[kind] * rng.uniform(-1, 1, wide.shape))
    if rounded and kind == "float32":
        step = np.nextafter(wide.astype(np.float32), np.float32(np.inf))
        moved = np.where(rng.random(wide.shape) < 0.5, moved, step)
    return np.where(wide == np.round(wide), wide, moved).astype(values.dtype)


def rounding_bound(known: oracle.Evaluation, dtype: str) -> Any:
    """The proven tolerance of an isolated activation, elementwise.

    The oracle bounds the rounding error of an evaluation by the recurrence in float32 (or float64); two such evaluations may
    differ by twice that, and by one rounding each to the output's dtype (and its smallest step).
    """
    compute = "float64" if dtype == "float64" else "float32"
    info, wide = (ml_dtypes.finfo(name) for name in (dtype, compute))
    step, wide_step = (float(i.smallest_normal) * float(i.eps) for i in (info, wide))
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(known.value), np.abs(known.value), 0.0)
        rounding = 0.0 if dtype == compute else size * UNIT_ROUNDOFF[dtype]
        lost = known.underflow * wide_step
        limit = 2.0 * (known.bound * UNIT_ROUNDOFF[compute] + lost + rounding + step)
        # Close to the largest number one side may overflow and the other not.
        limit = np.where((size > 0.99 * float(info.max)) | ~np.isfinite(limit), np.inf, limit)
        return np.where(np.isfinite(known.value), limit, 0.0)
