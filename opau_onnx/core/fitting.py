"""Initial coefficients: a least-squares fit of the activation to a known function on an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core import evaluation, gradient, oracle
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.spec import Config
from opau_onnx.core.targets import TARGETS
from opau_onnx.errors import SpecError

Array = npt.NDArray[np.float64]

POINTS = 513
STARTS = 12
TAIL_POINTS = 64
_OPS = NumpyOps()
_MARGIN = 0.05
"""A fit whose denominator comes nearer to zero than this on the interval is thrown away: it is next to a pole."""


@dataclass(frozen=True)
class Fit:
    """Coefficients that approximate a function on an interval.

    Attributes:
        numerator: c_0 .. c_k. denominator: d_first .. d_l.
        max_error: largest absolute error on the interval, measured by the oracle on a grid four times finer than the fit's.
        rms_error: root of the mean squared error there.
        tail_error: largest absolute error on the tails, half the interval's length on either side; NaN where the target
            is not finite there.
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    max_error: float
    rms_error: float
    tail_error: float


def fit(
    target: str | Callable[[Any], Any],
    config: Config,
    interval: tuple[float, float] = (-3.0, 3.0),
    tail_weight: float = 0.1,
) -> Fit:
    """Fit one row of coefficients to ``target``, the same result at every call.

    Args:
        target: a name of :data:`opau_onnx.core.targets.TARGETS`, or a callable that maps a float64 array (or a float64 tensor)
            to one of the same shape.
        config: basis, form and degrees; its groups do not matter.
        interval: (low, high), the range of inputs that counts.
        tail_weight: weight of the errors on the tails, half the interval's length on either side. Without it the best fit of
            HP-1 to Leaky ReLU is -279 at x = 20; with 0.1 it is 14 and the error on the interval grows from 0.084 to 0.097.
            0 looks at the interval alone.

    Raises:
        SpecError: an unknown name, an empty interval, or a target that is not finite on the interval.
    """
    low, high = (float(v) for v in interval)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise SpecError(f"interval is {interval!r}; expected two finite numbers (low, high) with low < high")
    if isinstance(target, str) and target not in TARGETS:
        raise SpecError(f"unknown target {target!r}; expected a callable or one of {', '.join(TARGETS)}")
    if not (np.isfinite(tail_weight) and tail_weight >= 0):
        raise SpecError(f"tail_weight is {tail_weight!r}; expected a finite number of at least 0")
    return _fit(target, config.basis, config.form, config.degrees, low, high, float(tail_weight))


@lru_cache(maxsize=512)
def _fit(target: Any, basis: str, form: str, degrees: tuple[int, int], low: float, high: float, tail_weight: float) -> Fit:
    config = Config(basis, form, degrees)
    problem = _problem(config, target, low, high, tail_weight)
    best: tuple[float, Array, Array] | None = None
    for start in _starts(config, problem.x):
        found = _solve(config, problem, start)
        if found is not None and (best is None or found[0] < best[0] * (1 - 1e-9)):
            best = found
    assert best is not None, "the start without denominator terms has no poles"
    return _measured(config, target, best[1], best[2], low, high)


@dataclass(frozen=True)
class _Problem:
    """Sample points, the target there, and the weight of each."""

    x: Array
    want: Array
    weight: Array


def _problem(config: Config, target: Any, low: float, high: float, tail_weight: float) -> _Problem:
    x = np.linspace(low, high, POINTS)
    want = _sample(target, x)
    if not np.isfinite(want).all():
        raise SpecError(f"the target {target!r} is not finite on the whole interval [{low:g}, {high:g}]")
    weight = np.ones_like(x)
    if tail_weight:
        outside = _tails(low, high)
        values = _sample(target, outside)
        known = np.isfinite(values)
        x, want = np.concatenate([x, outside[known]]), np.concatenate([want, values[known]])
        weight = np.concatenate([weight, np.full(int(known.sum()), tail_weight)])
    return _Problem(x, want, weight)


def _tails(low: float, high: float) -> Array:
    step = np.linspace(0.0, (high - low) / 2, TAIL_POINTS + 1)[1:]
    return np.concatenate([low - step, high + step])


def _sample(target: Any, x: Array) -> Array:
    function = TARGETS[target] if isinstance(target, str) else target
    try:
        y = function(x)
    except TypeError:  # a torch function
        import torch

        y = function(torch.from_numpy(x)).numpy(force=True)
    y = np.asarray(y, dtype=np.float64)
    if y.shape != x.shape:
        raise SpecError(f"the target {target!r} gives shape {y.shape} for input of shape {x.shape}; it must be elementwise")
    return y


def _measured(config: Config, target: Any, c: Array, d: Array, low: float, high: float) -> Fit:
    x = np.linspace(low, high, 4 * (POINTS - 1) + 1)
    outside = _tails(low, high)
    error, tail = (oracle.evaluate(config, at, c, d).value - _sample(target, at) for at in (x, outside))
    largest, rms = float(np.abs(error).max()), float(np.sqrt(np.mean(error**2)))
    tail_error = float(np.abs(tail).max()) if np.isfinite(tail).all() else float("nan")
    return Fit(tuple(c.tolist()), tuple(d.tolist()), largest, rms, tail_error)


def _starts(config: Config, x: Array) -> list[Array]:
    """Start values of the denominator: nothing, even and random terms of a size that matters on the interval."""
    rng = np.random.default_rng(2106_09693)
    size = [np.abs(row).mean() if isinstance(row, np.ndarray) else 1.0 for row in _basis(config, x)]
    reach = np.asarray(size[config.denominator_form.first : config.degrees[1] + 1])
    base = np.zeros(config.denominator_size)
    if config.denominator_form.first == 0:
        base[0] = 1.0
    if config.degrees[1] == 0:
        return [base]
    starts = [base]
    for scale in np.geomspace(0.01, 3.0, STARTS - 1):
        positive = config.denominator_form.mode.by_term
        draw = rng.uniform(0.0, 1.0, reach.shape) if positive else rng.normal(size=reach.shape)
        starts.append(base + scale * draw / np.maximum(reach, 1e-9))
    return starts


def _basis(config: Config, x: Array) -> list[Any]:
    return evaluation.ordinary_basis(config, x) if config.top else [np.ones_like(x)]


def _solve(config: Config, problem: _Problem, start: Array) -> tuple[float, Array, Array] | None:
    """Levenberg-Marquardt with the explicit gradients; (sum of squares, c, d), or None next to a pole."""
    from scipy.optimize import least_squares

    mode = config.denominator_form.mode
    x, want, weight = problem.x, problem.want, problem.weight
    rows = _basis(config, x)
    count = config.numerator_size
    positive = mode.by_term

    def prepare(values: Array) -> evaluation.Coefficients:
        # Weights that are at least 0 are the squares of what is fitted, which keeps them smooth at 0.
        return evaluation.Coefficients(list(values[:count]), list(values[count:] ** 2 if positive else values[count:]))

    def residual(values: Array) -> Array:
        return np.asarray(weight * (evaluation.rational(_OPS, config, rows, prepare(values)) - want))

    def jacobian(values: Array) -> Array:
        coefficients = prepare(values)
        part = gradient.gradient(_OPS, config, rows, coefficients, None, np.ones_like(x))
        columns = [part.weight * row for row in part.rows[:count]]
        for value, row in zip(values[count:], part.denominator_rows, strict=True):
            columns.append(part.denominator_weight * row * (2.0 * value if positive else 1.0))
        return np.stack([weight * c for c in columns], axis=1)

    bottom = np.sqrt(start) if positive else start
    with np.errstate(all="ignore"):
        first = np.concatenate([_linear(config, rows, problem, start), bottom])
        if not np.isfinite(residual(first)).all():
            return None
        found = least_squares(residual, first, jacobian, method="lm" if len(first) <= len(x) else "trf", max_nfev=400)
        weights = found.x[count:] ** 2 if positive else found.x[count:]
        if not np.isfinite(found.x).all() or _near_pole(config, rows, weights):
            return None
    return float(2.0 * found.cost), found.x[:count], np.asarray(mode.coefficient(weights))


def _linear(config: Config, rows: list[Any], problem: _Problem, weights: Array) -> Array:
    """The best numerator for a denominator's given weights."""
    q, _ = evaluation.denominator(_OPS, config.denominator_form, rows, list(weights))
    q = np.where(np.abs(q) < _MARGIN, _MARGIN, q)
    weight = problem.weight
    matrix = np.stack([weight * row / q for row in rows[: config.numerator_size]], axis=1)
    return np.asarray(np.linalg.lstsq(matrix, weight * problem.want, rcond=None)[0])


def _near_pole(config: Config, rows: list[Any], weights: Array) -> bool:
    q, _ = evaluation.denominator(_OPS, config.denominator_form, rows, list(weights))
    return bool(np.min(q) < _MARGIN)
