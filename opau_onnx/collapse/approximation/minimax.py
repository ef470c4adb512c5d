"""Fits with a small largest error: weighted least squares whose weights follow the error (C. L. Lawson, 1961)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ROUNDS = 40
_PATIENCE, _HOPELESS = 8, 4.0
"""After so many rounds an error of so many times the goal will not reach it: the weights gain a factor of two, rarely three."""
_FLOOR = 1e-3
"""Weights never fall below this share of the largest: where the error is small now it may grow again."""


def nodes(low: float, high: float, count: int = 2000) -> Array:
    """Chebyshev's points of [low, high], dense at its ends, and as many even ones, which find kinks."""
    angles = np.pi * (np.arange(count) + 0.5) / count
    return np.sort(np.concatenate([(low + high) / 2 - (high - low) / 2 * np.cos(angles), np.linspace(low, high, count)]))


def linear(columns: Array, wanted: Array, goal: float, rounds: int = ROUNDS) -> tuple[Array, float]:
    """(weights, largest error) of columns @ weights next to ``wanted``, shapes (points, terms) and (points,).

    Gives up early where the error will not come down to ``goal``.
    """

    def solve(weight: Array, _: Array) -> tuple[Array, Array, Array]:
        found = np.asarray(np.linalg.lstsq(columns * weight[:, None], wanted * weight, rcond=None)[0], np.float64)
        return found, columns @ found, np.ones_like(wanted)

    return _best(solve, wanted, goal, rounds)


def rational(
    top: Array, bottom: Array, offset: float, wanted: Array, nonnegative: bool, goal: float, rounds: int = ROUNDS
) -> tuple[Array, float]:
    """(weights of top's columns, then of bottom's; largest error) of (top @ p) / (offset + bottom @ q).

    Each round solves the linear problem top @ p - wanted (bottom @ q) = wanted offset, divided by the last round's denominator
    (C. K. Sanathanan and J. Koerner, 1963).

    Args:
        top, bottom: columns at the points, shapes (points, terms).
        offset: constant of the denominator.
        wanted: the function there.
        nonnegative: q may have no negative weights.
        goal: where the error will not come down to it the fit gives up early.
    """
    columns = np.concatenate([top, -wanted[:, None] * bottom], axis=1)
    count = top.shape[1]

    def solve(weight: Array, below: Array) -> tuple[Array, Array, Array]:
        scale = weight / np.abs(below)
        found = _solve(columns * scale[:, None], wanted * offset * scale, count, nonnegative)
        denominator = offset + bottom @ found[count:]
        with np.errstate(all="ignore"):
            return found, (top @ found[:count]) / denominator, denominator

    return _best(solve, wanted, goal, rounds)


def _solve(columns: Array, wanted: Array, free: int, nonnegative: bool) -> Array:
    if not nonnegative:
        return np.asarray(np.linalg.lstsq(columns, wanted, rcond=None)[0])
    from scipy.optimize import lsq_linear

    low = np.where(np.arange(columns.shape[1]) < free, -np.inf, 0.0)
    rotation, triangle = np.linalg.qr(columns)  # the same problem with as many rows as columns
    with np.errstate(all="ignore"):  # its reflected steps may multiply an infinite step length by 0
        return np.asarray(lsq_linear(triangle, rotation.T @ wanted, bounds=(low, np.inf), max_iter=50).x)


def _best(
    solve: Callable[[Array, Array], tuple[Array, Array, Array]], wanted: Array, goal: float, rounds: int
) -> tuple[Array, float]:
    weight, below = np.ones_like(wanted), np.ones_like(wanted)
    best: tuple[Any, float] = (None, np.inf)
    for turn in range(rounds):
        try:
            found, values, below = solve(np.sqrt(weight), below)
        except np.linalg.LinAlgError:
            break
        error = np.abs(values - wanted)
        largest = float(error.max())
        if not np.isfinite(largest) or not below.all():
            break
        if largest < best[1]:
            best = found, largest
        if turn >= _PATIENCE and best[1] > _HOPELESS * goal:
            break
        if turn >= 2:  # the first ones settle the denominator
            weight = weight * (error / largest + _FLOOR) if largest else weight
            weight /= weight.max()
    return (np.zeros(0), np.inf) if best[0] is None else best
