"""Initial coefficients: a least-squares fit of the activation to a known function on an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core import evaluation, gradient, oracle
from opau_onnx.core.denominators import NONE
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.spec import Config
from opau_onnx.core.targets import TARGETS
from opau_onnx.errors import SpecError

Array = npt.NDArray[np.float64]

POINTS = 513
STARTS = 12
TAIL_POINTS = 64
FAR_POINTS = 8
FAR = 100.0 / 3.0
"""How far growth is looked at, in half lengths of the interval: up to 100 for [-3, 3]."""
PRINTED = (-100.0, -10.0, 10.0, 100.0)
"""Inputs at which a fit's values are told."""
REFINED = 3
"""So many of the best fits on the interval are held back far out."""
COST, COST_OF_SPAN = 1.5, 0.001
"""Allowed cost of that: the root mean square of the errors may grow by this factor, and by this share of the target's span."""
ASLEEP, AWAKE = 1e-6, 1e-4
"""Denominator terms below the first size, relative to Q's 1, start at the second: abs() has no slope at 0."""
_OPS = NumpyOps()
_Solution = tuple[float, Array, Array]
"""Weighted sum of squares, numerator, denominator."""
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
        far: the fit's values at :data:`PRINTED`.
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    max_error: float
    rms_error: float
    tail_error: float
    far: tuple[float, ...]


def fit(
    target: str | Callable[[Any], Any],
    config: Config,
    interval: tuple[float, float] = (-3.0, 3.0),
    tail_weight: float = 0.1,
    growth_weight: float = 0.01,
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
        growth_weight: weight of the errors far out, 3 to 33 half lengths of the interval from its middle, relative to the
            distance. Without it most safe fits have a highest denominator coefficient of nearly 0 and grow quadratically: HP-1
            fitted to the sigmoid is 2,270 at 100. With 0.01 it is 0.94, and the error on the interval grows by a hundredth of
            the function's range at most, for HP-1 on Leaky ReLU from 0.097 to 0.098 (docs/training.md).

    In the forms with absolute values, terms of the denominator that the fit leaves out start at a small number instead of 0,
    where they have no slope and would never learn.

    Raises:
        SpecError: an unknown name, an empty interval, or a target that is not finite on the interval.
    """
    low, high = check(target, interval)
    for name, weight in (("tail_weight", tail_weight), ("growth_weight", growth_weight)):
        if not (np.isfinite(weight) and weight >= 0):
            raise SpecError(f"{name} is {weight!r}; expected a finite number of at least 0")
    weights = float(tail_weight), float(growth_weight)
    return _fit(target, config.basis, config.form, config.degrees, low, high, weights)


def check(target: str | Callable[[Any], Any], interval: tuple[float, float]) -> tuple[float, float]:
    """(low, high) of what :func:`fit` takes; raises as it does for names and intervals."""
    low, high = (float(v) for v in interval)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise SpecError(f"interval is {interval!r}; expected two finite numbers (low, high) with low < high")
    if isinstance(target, str) and target not in TARGETS:
        raise SpecError(f"unknown target {target!r}; expected a callable or one of {', '.join(TARGETS)}")
    return low, high


@lru_cache(maxsize=512)
def _fit(
    target: Any, basis: str, form: str, degrees: tuple[int, int], low: float, high: float, weights: tuple[float, float]
) -> Fit:
    config = Config(basis, form, degrees)
    near, whole = _problem(target, low, high, weights[0], 0.0), _problem(target, low, high, *weights)
    starts = _starts(config, near.x)
    best = sorted(filter(None, (_solve(config, near, start) for start in starts)), key=lambda found: found[0])
    if not best:  # all ended next to a pole: the best numerator over the start without denominator terms, which has none
        best = [(np.inf, _linear(config, _basis(config, near.x), near, starts[0]), starts[0])]
    chosen, problem = best[0], near
    if len(whole.x) > len(near.x):
        refined = filter(None, (_solve(config, whole, d, c) for _, c, d in best[:REFINED]))
        held = min(refined, key=lambda found: found[0], default=best[0])
        if _worth(config, near, best[0], held):
            chosen, problem = held, whole
    awake = next((a for p in (problem, near) if _worth(config, near, chosen, a := _awake(config, p, chosen))), chosen)
    return _measured(config, target, *awake[1:], low, high)


def _worth(config: Config, problem: _Problem, best: _Solution, other: _Solution) -> bool:
    """True where another solution costs little on the interval: some targets leave no room for anything else."""
    allowed = COST * _rms(config, problem, best) + COST_OF_SPAN * float(np.ptp(problem.want[:POINTS]))
    return _rms(config, problem, other) <= allowed


def _rms(config: Config, problem: _Problem, found: _Solution) -> float:
    """Root of the mean squared error on the interval."""
    value = oracle.evaluate(config, problem.x[:POINTS], found[1], found[2]).value
    return float(np.sqrt(np.mean((value - problem.want[:POINTS]) ** 2)))


def _awake(config: Config, problem: _Problem, found: _Solution) -> _Solution:
    """A solution whose denominator terms all have a slope: docs/training.md has what they learn from which start."""
    cost, _, d = found
    mode = config.denominator_form.mode
    if mode is NONE or not d.size:
        return found
    rows = _basis(config, problem.x)
    first = config.denominator_form.first
    on = np.ones_like(problem.x)
    reach = np.array([max(float(np.abs(row * on)[:POINTS].mean()), 1e-9) for row in rows[first : first + d.size]])
    asleep = np.abs(d) * reach < ASLEEP
    if not (asleep.any() if mode.by_term else asleep.all()):
        return found
    d = np.where(asleep, AWAKE / reach, d)
    with np.errstate(all="ignore"):
        refitted = _linear(config, rows, problem, np.abs(d) if mode.by_term else d)
    return cost, refitted, d


@dataclass(frozen=True)
class _Problem:
    """Sample points, the target there, and the weight of each."""

    x: Array
    want: Array
    weight: Array


def _problem(target: Any, low: float, high: float, tail_weight: float, growth_weight: float) -> _Problem:
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
    if growth_weight:
        half = (high - low) / 2
        distance = half * np.geomspace(3.0, FAR, FAR_POINTS)
        at = (low + high) / 2 + np.concatenate([-distance, distance])
        values = _sample(target, at)
        # Not of targets that grow like exp: nothing could follow them.
        known = np.abs(values) <= 10.0 * float(np.abs(want).max()) * np.concatenate([distance, distance]) / half
        # Few points, on which a relative error counts as much as on all of the others.
        relative = growth_weight * np.sqrt(len(x) / len(at)) * half / np.concatenate([distance, distance])
        x, want = np.concatenate([x, at[known]]), np.concatenate([want, values[known]])
        weight = np.concatenate([weight, relative[known]])
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
    far = oracle.evaluate(config, np.array(PRINTED), c, d).value
    return Fit(tuple(c.tolist()), tuple(d.tolist()), largest, rms, tail_error, tuple(far.tolist()))


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


def _solve(config: Config, problem: _Problem, start: Array, numerator: Array | None = None) -> _Solution | None:
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

    bottom = np.sqrt(np.abs(start)) if positive else start
    with np.errstate(all="ignore"):
        top = _linear(config, rows, problem, np.abs(start) if positive else start) if numerator is None else numerator
        first = np.concatenate([top, bottom])
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
