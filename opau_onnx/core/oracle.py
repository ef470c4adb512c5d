"""The float64 oracle: value, condition number and rounding bound, from the definition's tables alone.

It shares no arithmetic with the implementations: the recurrence runs on pairs (mantissa, exponent), so nothing overflows
or underflows at any finite x and any degree, and no scaling by ``X0`` is needed. Tests hold it against
``numpy.polynomial`` and ``scipy.special``, which do not know our tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core.spec import Config, common_factor, ordinary_limit

Array = npt.NDArray[np.float64]
_EMPTY = -(10**6)  # exponent of zero: below every other
_COARSEST = 2.0**-23
"""Twice the unit roundoff of float32, the coarsest arithmetic in use: an error of this size decides whether Q is clamped."""


@dataclass(frozen=True)
class Big:
    """mantissa * 2**exponent, elementwise; mantissas are in [0.5, 1) in magnitude, or 0, inf, NaN."""

    mantissa: Array
    exponent: npt.NDArray[np.int64]

    @staticmethod
    def of(value: Any, exponent: Any = 0) -> Big:
        mantissa, shift = np.frexp(np.asarray(value, dtype=np.float64))
        zero = mantissa == 0
        return Big(mantissa, np.where(zero, _EMPTY, shift.astype(np.int64) + exponent))

    def __mul__(self, other: Big) -> Big:
        return Big.of(self.mantissa * other.mantissa, self.exponent + other.exponent)

    def __add__(self, other: Big) -> Big:
        top = np.maximum(self.exponent, other.exponent)
        left, right = (np.ldexp(b.mantissa, np.maximum(b.exponent - top, -2000).astype(np.int32)) for b in (self, other))
        return Big.of(left + right, top)

    def __neg__(self) -> Big:
        return Big(-self.mantissa, self.exponent)

    def __abs__(self) -> Big:
        return Big(np.abs(self.mantissa), self.exponent)

    def __truediv__(self, other: Big) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            shift = np.clip(self.exponent - other.exponent, -5000, 5000).astype(np.int32)
            return np.asarray(np.ldexp(self.mantissa / other.mantissa, shift))


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of each element; all arrays have the shape of x, dtype float64.

    Attributes:
        value: P / Q.
        condition: relative condition number of the sums, sum abs(c_i f_i) / abs(P) + (offset + sum abs(d_j f_j)) / Q: how
            many times a relative error of the terms can grow. inf where P is 0.
        bound: first-order bound of the absolute error, in units of the unit roundoff u of the arithmetic used: an
            evaluation by the recurrence in precision u, rounded once to the same precision, differs from ``value`` by
            at most ``bound * u`` plus terms of order u**2, plus ``underflow`` subnormal steps.
        underflow: what scaled arithmetic beyond X0 may lose besides, in units of the smallest subnormal number: the weights
            r**(M - i) may be subnormal themselves, and what they lose is multiplied by their terms, in P and in Q. 0 up to X0;
            it matters only where ``value`` is close to the subnormal numbers or to the largest, or where the coefficients are
            below :data:`~opau_onnx.core.spec.COEFFICIENT_FLOOR`.
    """

    value: Array
    condition: Array
    bound: Array
    underflow: Array


def basis(config: Config, x: Any) -> list[Big]:
    """f_0 .. f_m at x, as :class:`Big`."""
    at = Big.of(x)
    rows = [Big.of(np.ones_like(at.mantissa))]
    for n, (a, b, c) in enumerate(config.steps()):
        value = (Big.of(float(a)) * at + Big.of(float(b))) * rows[-1]
        if n:
            value = value + -(Big.of(float(c)) * rows[-2])
        rows.append(value)
    return rows


def evaluate(config: Config, x: Any, numerator: Any, denominator: Any) -> Evaluation:
    """Evaluate the activation in float64.

    Args:
        config: which function.
        x: input of any shape; taken as float64.
        numerator, denominator: coefficients, shapes as :class:`~opau_onnx.core.spec.Config` allows.

    Raises:
        SpecError: shapes that do not fit.
    """
    x, c, d = (np.asarray(v, dtype=np.float64) for v in (x, numerator, denominator))
    config.check_coefficients(c.shape, d.shape)
    axis = config.check_input(x.shape)
    finite = np.where(np.isinf(x), np.copysign(np.finfo(np.float64).max, x), x)
    c_rows, d_rows = (_broadcast(config, axis, x.shape, v) for v in (c, d))
    with np.errstate(all="ignore"):
        result = _evaluate(config, finite, c_rows, d_rows)
        value = np.where(np.isinf(x), _limit(config, x, c_rows, d_rows), result.value)
    value = np.where(np.isnan(x), np.nan, value)
    return Evaluation(value, result.condition, result.bound, result.underflow)


def _broadcast(config: Config, axis: int, shape: tuple[int, ...], values: Array) -> list[Array]:
    """One array for each coefficient, broadcastable against x."""
    if values.ndim == 1:
        return [np.asarray(v) for v in values]
    repeat = shape[axis] // config.groups
    trailing = (1,) * (len(shape) - axis - 1)
    return [np.repeat(column, repeat).reshape(-1, *trailing) for column in values.T]


def _evaluate(config: Config, x: Array, c: list[Array], d: list[Array]) -> Evaluation:
    form = config.denominator_form
    rows = basis(config, x)
    errors = _basis_errors(config, x, rows)
    d_rows, d_errors = rows[form.first :], errors[form.first :]

    top = _sum([Big.of(v) * r for v, r in zip(c, rows, strict=False)], x)
    terms = [Big.of(v) * r for v, r in zip(d, d_rows, strict=False)]
    inner = _sum([abs(t) for t in terms] if form.mode.name == "terms" else terms, x)
    bottom = Big.of(np.full_like(x, form.offset)) + (abs(inner) if form.mode.name == "sum" else inner)
    bottom_size = Big.of(np.full_like(x, form.offset)) + _sum([abs(t) for t in terms], x)
    bottom_error = _sum_error(d, d_rows, d_errors, x) + bottom_size * Big.of(2.0)
    clamped = surely = np.zeros(x.shape, dtype=bool)
    if form.minimum is not None:
        surely = np.asarray(_below(bottom + bottom_error * Big.of(_COARSEST), form.minimum))
        clamped = np.asarray(_below(bottom, form.minimum))
        bottom = Big(
            np.where(clamped, Big.of(form.minimum).mantissa, bottom.mantissa),
            np.where(clamped, Big.of(form.minimum).exponent, bottom.exponent),
        )
    value = top / bottom
    value = np.where(top.mantissa == 0, 0.0, value)  # 0 / Q, also where the exponents are far apart

    top_size = _sum([abs(Big.of(v) * r) for v, r in zip(c, rows, strict=False)], x)
    grows = np.where(clamped, 0.0, np.abs(bottom_size / bottom))
    condition = np.abs(top_size / top) + grows

    # Errors of the sums in units of u: each term carries its basis value's error, a product and the sums above it.
    top_error = _sum_error(c, rows, errors, x)
    bound = np.abs(top_error / bottom) + np.abs(value) * (np.where(surely, 0.0, np.abs(bottom_error / bottom)) + 2.0)
    return Evaluation(value, condition, bound, _underflow(config, x, rows, (c, d), bottom, value))


def _sum(values: list[Big], like: Array) -> Big:
    total = Big.of(np.zeros_like(like))
    for value in values:
        total = total + value
    return total


def _below(value: Big, limit: float) -> npt.NDArray[np.bool_]:
    return (value + Big.of(-limit)).mantissa < 0


def _sum_error(coefficients: list[Array], rows: list[Big], errors: list[Big], like: Array) -> Big:
    roundings = Big.of(float(len(coefficients) + 2))
    total = Big.of(np.zeros_like(like))
    for value, row, error in zip(coefficients, rows, errors, strict=False):
        total = total + abs(Big.of(value)) * (error + abs(row) * roundings)
    return total


def _basis_errors(config: Config, x: Array, rows: list[Big]) -> list[Big]:
    """Bound of each f_n's rounding error, in units of u.

    A rounding of relative size u made at step j reaches f_n through the recurrence's own solution G(n, j) that starts
    with 1 at j and 0 at j - 1, so error_n = sum_j abs(G(n, j)) * local_j. Majorants that replace the recurrence by
    absolute values would grow exponentially where the true error grows linearly.
    Each local error covers, besides the four operations, the scaled arithmetic beyond X0 (weights of up to 2 m roundings).
    """
    steps, at = config.steps(), Big.of(x)
    slopes = [Big.of(float(a)) * at + Big.of(float(b)) for a, b, _ in steps]
    size = [abs(Big.of(float(a)) * at) + abs(Big.of(float(b))) for a, b, _ in steps]
    local = [Big.of(np.zeros_like(x))]
    for n, step in enumerate(steps):
        terms = size[n] * abs(rows[n])
        if n:
            terms = terms + Big.of(abs(float(step.c))) * abs(rows[n - 1])
        local.append(terms * Big.of(4.0))
    errors = [abs(r) * Big.of(_scaling_roundings(config, x)) for r in rows]
    for j in range(1, len(rows)):
        before, now = Big.of(np.zeros_like(x)), Big.of(np.ones_like(x))
        for n in range(j, len(rows)):
            errors[n] = errors[n] + abs(now) * local[j]
            if n < len(steps):
                before, now = now, slopes[n] * now + -(Big.of(float(steps[n].c)) * before)
    return errors


def _underflow(
    config: Config, x: Array, rows: list[Big], values: tuple[list[Array], list[Array]], bottom: Big, value: Array
) -> Array:
    """(n + sum_i abs(c_i) (abs(f_i) r**i + 1) + abs(y) (n + sum_j abs(d_j) (abs(f_j) r**j + 1))) / (F Q r**M), r = X0 / abs(x).

    Each weight and product errs by up to one step, in P and in Q. F is the factor that both are multiplied with, of which half
    is counted on: implementations may round it to a power of two, or take abs(c_M) + abs(d_M) for the larger.
    """
    form, one = config.denominator_form, np.ones_like(x)
    limit = config.limit
    r = limit / np.maximum(np.abs(x), limit)
    firsts = (0, form.first)
    leads = [_leading(config, v, first, one) for v, first in zip(values, firsts, strict=True)]
    used = np.maximum(leads[0][1], leads[1][1])
    table = common_factor(config.basis, config.top, form.mode.power)
    size = np.maximum(*(np.where(degree == used, np.abs(v) * limit ** np.maximum(used, 0.0), 0.0) for v, degree in leads))
    factor = np.clip(table.enough / 2 / np.where(used > 0, size, np.inf), 1.0, table.most)
    sums, power, scale = [Big.of(one * (len(v) + 1)) for v in values], Big.of(one), Big.of(factor)
    for i, row in enumerate(rows):
        for part, (coefficients, first) in enumerate(zip(values, firsts, strict=True)):
            if 0 <= i - first < len(coefficients):
                sums[part] = sums[part] + abs(Big.of(coefficients[i - first])) * (abs(row) * power + Big.of(one))
        power = power * Big.of(r)
        scale = scale * Big.of(np.where(i < used, r, 1.0))
    total = sums[0] + Big.of(np.abs(value)) * sums[1]
    return np.asarray(np.where(np.abs(x) > limit, np.abs(total / (bottom * scale)), 0.0))


def _scaling_roundings(config: Config, x: Array) -> Array:
    return np.where(np.abs(x) > ordinary_limit(config.top), 4.0 * config.top, 0.0)


def _limit(config: Config, x: Array, c: list[Array], d: list[Array]) -> Array:
    """Limit of P / Q for x -> +-inf, from the leading non-zero terms; its sign from the leading coefficients."""
    form = config.denominator_form
    sign = np.where(x < 0, -1.0, 1.0)
    top, top_degree = _leading(config, c, 0, sign)
    bottom, bottom_degree = _leading(config, d, form.first, sign)
    if form.mode.name != "none":
        bottom = np.abs(bottom)
    constant = bottom_degree <= 0  # no term that grows: Q is its constant
    free = d[0] if form.first == 0 else np.asarray(0.0)
    inner = np.abs(free) if form.mode.name != "none" else free
    bottom = np.where(constant, form.offset + inner, bottom)
    if form.minimum is not None:
        top_degree = np.where(bottom < 0, top_degree + np.maximum(bottom_degree, 0), top_degree)
        bottom = np.where(bottom < 0, form.minimum, bottom)
    difference = top_degree - np.maximum(bottom_degree, 0)
    ratio = top / bottom
    growing = np.where(top == 0, 0.0, np.where(difference > 0, np.copysign(np.inf, ratio), 0.0))
    return np.asarray(np.where(difference == 0, ratio, growing) * np.ones_like(x))


def _leading(config: Config, values: list[Array], first: int, sign: Array) -> tuple[Array, Array]:
    """(coefficient of the highest power with its sign at +-inf, that power or -1) of sum_i values_i f_i."""
    lead, leads = 1.0, [1.0]
    for a, _, _ in config.steps():
        lead *= float(a)
        leads.append(lead)
    value, degree = np.zeros_like(sign), np.full(sign.shape, -1)
    for i, coefficient in enumerate(values, start=first):
        present = np.broadcast_to(coefficient != 0, sign.shape)
        value = np.where(present, coefficient * leads[i] * sign**i, value)
        degree = np.where(present, i, degree)
    return value, degree
