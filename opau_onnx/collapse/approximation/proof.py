"""A bound of the distance between an activation and what takes its place, for every number of a range, not for samples.

The range is cut into intervals until on each one the enclosure of the exact function and that of everything the replacement may
compute there, its roundings included, are close enough. What holds for all real numbers of the range holds for every float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opau_onnx.collapse.approximation.intervals import Interval, IntervalOps, single
from opau_onnx.core import evaluation
from opau_onnx.core.frozen import Array, Frozen

START, PARTS = 2048, 4
"""Intervals at the beginning; into how many one is cut."""
MOST = 2**22
"""Intervals in hand beyond which nothing is proven."""
_CHUNK = 2**16

Enclose = Callable[[Interval], Interval]


def enclose_exact(frozen: Frozen, low: Any, high: Any) -> Interval:
    """The exact function of one group on intervals within X0."""
    config = frozen.config
    ops, x = IntervalOps(), Interval(np.asarray(low, np.float64), np.asarray(high, np.float64))
    rows = evaluation.ordinary_basis(config, x) if config.top else evaluation.constant_rows(ops, x)
    found = evaluation.rational(ops, config, rows, frozen.coefficients())
    return found if isinstance(found, Interval) else x * 0.0 + found


def prove(frozen: Frozen, enclose: Enclose, low: float, high: float, tolerance: float) -> float | None:
    """A bound, at most ``tolerance``, of abs(replacement - exact) for every number in [low, high].

    Args:
        frozen: one group's activation.
        enclose: inputs -> an enclosure of all that the replacement may compute for them.
        low, high: the range.
        tolerance: what is to be proven.

    Returns:
        None where it cannot be proven: it is wrong somewhere, or too close to wrong.
    """
    edges = np.linspace(low, high, START + 1)
    left, right = edges[:-1], edges[1:]
    bound = 0.0
    while left.size:
        if left.size > MOST:
            return None
        parts = [slice(i, i + _CHUNK) for i in range(0, left.size, _CHUNK)]
        reached = np.concatenate([_distance(frozen, enclose, left[part], right[part]) for part in parts])
        done = reached <= tolerance
        bound = max(bound, float(reached[done].max(initial=0.0)))
        left, right = left[~done], right[~done]
        if (np.abs(right - left) <= 4 * np.spacing(np.maximum(np.abs(left), np.abs(right)))).any():
            return None
        steps = np.linspace(0.0, 1.0, PARTS + 1)
        cut = left[:, None] + (right - left)[:, None] * steps
        cut[:, -1] = right
        left, right = cut[:, :-1].ravel(), cut[:, 1:].ravel()
    return bound


def _distance(frozen: Frozen, enclose: Enclose, left: Array, right: Array) -> Array:
    with np.errstate(all="ignore"):
        known, given = enclose_exact(frozen, left, right), enclose(single(left, right, frozen.compute))
        found = np.maximum(given.high - known.low, known.high - given.low)
    return np.asarray(np.where(np.isnan(found), np.inf, found))
