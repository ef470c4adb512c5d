"""The gradients of :mod:`opau_onnx.core.evaluation`, once, over any array library.

Explicit (method.md, "Gradients of safe OPAU"; arXiv 2106.09693), for every form. With h = g / Q and y = P / Q:
dL/dc_i = h f_i, dL/dd_j = -h y dQ/dd_j, dL/dx = h (P' - y Q').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from opau_onnx.core.denominators import Form, Mode
from opau_onnx.core.evaluation import (
    Coefficients,
    Lower,
    Ops,
    Row,
    denominator_of,
    denominator_rows,
    dot,
    numerator_rows,
    power,
)
from opau_onnx.core.spec import Config, derivative_table


class GradientOps(Ops, Protocol):
    """Operations that the gradients need besides."""

    def sign(self, x: Any) -> Any: ...
    def multiply(self, x: Any, y: Any) -> Any: ...
    def greater(self, x: Any, y: Any) -> Any:
        """1 where x > y, else 0, as a value that can be multiplied."""

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        """total + weight * x * y, where ``weight`` has no elements of its own; may reuse ``total`` likewise."""


@dataclass(frozen=True)
class Derivatives:
    """Coefficients of P' and of the denominator's sum, from :func:`opau_onnx.core.spec.derivative_table`.

    Attributes:
        numerator: P' = sum_i numerator_i f_i.
        denominator: one list for each weight w_j in a mode by term (w_j f_j' = sum_i list_i f_i), else a single list for
            the whole sum. None stands for a zero.
    """

    numerator: Sequence[Any]
    denominator: Sequence[Sequence[Any]]


def derivatives(config: Config, coefficients: Coefficients) -> Derivatives:
    """The derivatives' coefficients, from those of P and of the denominator's sum."""
    table = _entries(config.basis, config.top)
    first = config.denominator_form.first
    top = _combine(table, list(enumerate(coefficients.numerator)))
    indexed = list(enumerate(coefficients.denominator, start=first))
    if config.denominator_form.mode.by_term:
        return Derivatives(top, [_combine(table, [pair]) for pair in indexed])
    return Derivatives(top, [_combine(table, indexed)])


_Entries = tuple[tuple[tuple[int, float], ...], ...]


@lru_cache(maxsize=256)
def _entries(basis: str, top: int) -> _Entries:
    """The non-zero entries (column, value) of each row of the derivative table."""
    table = derivative_table(basis, top)
    return tuple(tuple((i, float(entry)) for i, entry in enumerate(row) if entry) for row in table)


def _combine(table: _Entries, indexed: list[tuple[int, Any]]) -> list[Any]:
    out: list[Any] = [None] * len(table)
    for j, value in indexed:
        for i, entry in table[j]:
            term = _scale(value, entry)
            out[i] = term if out[i] is None else out[i] + term
    return out


@dataclass(frozen=True)
class Gradient:
    """The gradient of sum(g * y), as factors: what remains are products and sums over the elements that share a coefficient.

    Attributes:
        x_weight, slope: the gradient of x is ``x_weight * slope``; slope is 0.0 where y is constant or was not asked for.
        weight, rows: the gradient of c_i is the sum of ``weight * rows[i]``.
        denominator_weight, denominator_rows: that of the weight of d_j likewise.
    """

    x_weight: Any
    slope: Any
    weight: Any
    rows: Sequence[Row]
    denominator_weight: Any
    denominator_rows: Sequence[Row]


def gradient(
    ops: GradientOps,
    config: Config,
    rows: Sequence[Row],
    coefficients: Coefficients,
    slopes: Derivatives | None,
    g: Any,
    lower: Lower | None = None,
) -> Gradient:
    """The factors of the gradient.

    Args:
        ops, config, coefficients: as for :func:`opau_onnx.core.evaluation.rational`.
        rows: the ordinary basis, or the scaled one with its ``lower``.
        slopes: coefficients of the derivatives; without them the gradient of x is left out.
        g: the gradient that comes in.
    """
    form = config.denominator_form
    factors = denominator_rows(ops, form, rows, len(coefficients.denominator))
    bottom, inner = denominator_of(ops, form, rows[0], factors, coefficients.denominator)
    side: Any = None  # dQ / d(sum of the denominator), where it is not 1
    if inner is not None:
        side = form.mode.outer_slope(ops, inner)
    if form.minimum is not None and inner is not None:
        side = ops.greater(inner, _scale(rows[0], form.minimum))
    negative = [c * -1.0 for c in coefficients.numerator]
    upper = numerator_rows(form, rows)
    if lower is None:
        x_weight = weight = ops.divide(g, bottom)
        minus_y = ops.divide(dot(ops, negative, upper), bottom)
    else:  # g / Q * y could overflow where f_i / Q * y does not
        inverse = ops.divide(1.0, bottom)
        upper, factors = ([row * inverse for row in some] for some in (upper, factors))
        x_weight, weight = g * inverse, g
        minus_y = dot(ops, negative, upper)
        # Only now: where these rows are infinite their coefficients are 0.
        upper = [row * above for row, above in zip(upper, lower.above, strict=False)]
        factors = [row * power(above, form.mode.power) for row, above in zip(factors, lower.above[form.first :], strict=False)]
    slope = 0.0 if slopes is None else _slope(ops, form, rows, lower, slopes, minus_y, side)
    pull = ops.multiply(weight, minus_y)
    return Gradient(x_weight, slope, weight, upper, pull if side is None else ops.multiply(pull, side), factors)


def _slope(
    ops: GradientOps,
    form: Form,
    rows: Sequence[Row],
    lower: Lower | None,
    slopes: Derivatives,
    minus_y: Any,
    side: Any,
) -> Any:
    """P' - y Q', over the same power of s as Q."""
    basis = rows if lower is None else lower.rows
    change = dot(ops, slopes.numerator, basis)
    if change is not None and lower is not None and form.mode.power > 1:
        change = change * power(rows[0], form.mode.power - 1)
    if form.mode.by_term:
        pull = _slope_by_term(ops, form.mode, slopes, basis, rows[form.first :])
    else:
        pull = dot(ops, slopes.denominator[0], basis)
        pull = pull if side is None or pull is None else ops.multiply(side, pull)
    if pull is not None:
        change = ops.multiply(minus_y, pull) if change is None else ops.multiply_add(change, minus_y, pull)
    if change is None:
        return 0.0
    return change if lower is None else change * lower.r


def _slope_by_term(ops: GradientOps, mode: Mode, slopes: Derivatives, basis: Sequence[Row], rows: Sequence[Row]) -> Any:
    """sum_j row'(f_j) w_j f_j'; None for an empty sum."""
    total: Any = None
    for line, row in zip(slopes.denominator, rows, strict=False):
        side = mode.row_slope(ops, row)
        for value, other in zip(line, basis, strict=True):
            if value is not None:
                total = ops.multiply(side, value * other) if total is None else ops.weighted_add(total, value, other, side)
    return total


def _scale(x: Any, factor: float) -> Any:
    return x if factor == 1.0 else x * factor
