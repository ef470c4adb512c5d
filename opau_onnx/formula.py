"""The formula of :mod:`opau_onnx.spec` and its gradients, once, over any array library.

:class:`Ops` is what a library has to offer. The same code builds ONNX function bodies, evaluates blocks of a tensor in
PyTorch, and is what ``torch.compile`` fuses. It holds no branch on data: the caller chooses between
:func:`ordinary_basis`, right up to ``X0``, and :func:`scaled_basis`, right everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opau_onnx.spec import Config, Form, derivative_table, ordinary_limit


class Ops(Protocol):
    """Elementwise operations with broadcasting; NaN propagates. Values also support ``+ - *``, also with floats."""

    def abs(self, x: Any) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def clamp(self, x: Any, low: float, high: float) -> Any: ...
    def divide(self, x: Any, y: Any) -> Any: ...
    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        """total + x * y, rounded once or twice."""


class GradientOps(Ops, Protocol):
    """What the gradients need besides."""

    def sign(self, x: Any) -> Any: ...
    def greater(self, x: Any, y: Any) -> Any:
        """1 where x > y, else 0, as a value that can be multiplied."""


@dataclass(frozen=True)
class Coefficients:
    """Coefficients as separate values that broadcast against x.

    Attributes:
        numerator: c_0 .. c_k.
        denominator: d_first .. d_l; their absolute values in the form whose terms are absolute.
        beyond: for i = 1 .. m, 1 where every coefficient of degree i and above is zero, else 0; empty where only the
            ordinary basis is used.
    """

    numerator: Sequence[Any]
    denominator: Sequence[Any]
    beyond: Sequence[Any] = ()


Row = Any
"""f_n(x), or f_n(x) / s**M; f_0 may stand as the float 1.0."""


def ordinary_basis(config: Config, x: Any) -> list[Row]:
    """f_0 .. f_m by the recurrence; may overflow beyond ``ordinary_limit(m)``."""
    rows: list[Row] = [1.0]
    for n, (a, b, c) in enumerate(config.steps()):
        slope = _affine(x, float(a), float(b))
        if n == 0:
            rows.append(slope)
            continue
        value = slope * rows[-1]
        rows.append(value - _scale(rows[-2], float(c)) if c else value)
    return rows


def scaled_basis(ops: Ops, config: Config, x: Any, beyond: Sequence[Any]) -> list[Row]:
    """T_0 .. T_m with T_i = f_i(x) / s**M, s = max(1, abs(x) / X0), M the largest degree in use.

    With r = 1 / s and u = clamp(x, -X0, X0) = x r, the homogeneous F_i = r**i f_i(x) follows
    F_{n+1} = (a u + b r) F_n - c r**2 F_{n-1}, and T_i = r**(M - i) F_i: every factor is bounded. Degrees above M are not
    in use, so their weight stays 1 (``beyond``): otherwise leading zero coefficients would drive P and Q to 0 / 0.
    """
    limit = ordinary_limit(config.top)
    r = ops.divide(limit, ops.maximum(ops.abs(x), limit))
    u = ops.clamp(x, -limit, limit)
    square: Any = None
    rows: list[Row] = [1.0]
    for n, (a, b, c) in enumerate(config.steps()):
        slope = _scale(u, float(a))
        if b:
            slope = slope + _scale(r, float(b))
        if n == 0:
            rows.append(slope)
            continue
        value = slope * rows[-1]
        if c:
            square = r * r if square is None else square
            value = value - _scale(square if n == 1 else square * rows[-2], float(c))
        rows.append(value)
    weight: Any = None  # r**(M - i), from the top down
    for i in range(config.top - 1, -1, -1):
        factor = ops.maximum(r, beyond[i])
        weight = factor if weight is None else weight * factor
        rows[i] = weight if i == 0 else weight * rows[i]
    return rows


def _scale(x: Any, factor: float) -> Any:
    """x times a constant, without the multiplication where it is 1."""
    return x if factor == 1.0 else x * factor


def _affine(x: Any, slope: float, constant: float) -> Any:
    return _scale(x, slope) + constant if constant else _scale(x, slope)


def dot(ops: Ops, coefficients: Sequence[Any], rows: Sequence[Row]) -> Any:
    """sum_i coefficients_i rows_i; None for an empty sum. A coefficient of None stands for zero."""
    total: Any = None
    for value, row in zip(coefficients, rows, strict=False):
        if value is not None:
            total = value * row if total is None else ops.multiply_add(total, value, row)
    return total


def denominator(ops: Ops, form: Form, rows: Sequence[Row], coefficients: Sequence[Any]) -> tuple[Any, Any]:
    """(Q, the sum inside it before any absolute value or bound; None where it is empty)."""
    inner = dot(ops, coefficients, denominator_rows(ops, form, rows, len(coefficients)))
    total = ops.abs(inner) if form.absolute == "sum" and inner is not None else inner
    if form.offset:
        offset = _scale(rows[0], form.offset)
        total = offset if total is None else total + offset
    return (total if form.minimum is None or inner is None else ops.maximum(total, _scale(rows[0], form.minimum))), inner


def denominator_rows(ops: Ops, form: Form, rows: Sequence[Row], count: int) -> list[Row]:
    """The rows that the denominator's coefficients multiply."""
    rest = list(rows[form.first : form.first + count])
    return [ops.abs(row) for row in rest] if form.absolute == "terms" else rest


def rational(ops: Ops, config: Config, rows: Sequence[Row], coefficients: Coefficients) -> Any:
    """y = P / Q from the basis rows."""
    bottom, _ = denominator(ops, config.denominator_form, rows, coefficients.denominator)
    return ops.divide(dot(ops, coefficients.numerator, rows), bottom)


def constant_rows(ops: Ops, x: Any) -> list[Row]:
    """The basis at degrees (0, 0): 1 for every element, but NaN stays NaN; the clamp keeps inf from becoming NaN."""
    return [ops.clamp(x, -1.0, 1.0) * 0.0 + 1.0]


@dataclass(frozen=True)
class Derivatives:
    """Coefficients of P' and of the denominator's sum, from :func:`opau_onnx.spec.derivative_table`.

    Attributes:
        numerator: P' = sum_i numerator_i f_i.
        denominator: one list for each coefficient d_j in the form whose terms are absolute (d_j f_j' = sum_i list_i f_i),
            else a single list for the whole sum. None stands for a zero.
    """

    numerator: Sequence[Any]
    denominator: Sequence[Sequence[Any]]


def derivatives(config: Config, coefficients: Coefficients) -> Derivatives:
    table = derivative_table(config.basis, config.top)
    first = config.denominator_form.first
    top = _combine(table, list(enumerate(coefficients.numerator)))
    indexed = list(enumerate(coefficients.denominator, start=first))
    if config.denominator_form.absolute == "terms":
        return Derivatives(top, [_combine(table, [pair]) for pair in indexed])
    return Derivatives(top, [_combine(table, indexed)])


def _combine(table: Sequence[Sequence[Any]], indexed: list[tuple[int, Any]]) -> list[Any]:
    out: list[Any] = [None] * len(table)
    for j, value in indexed:
        for i, entry in enumerate(table[j]):
            if entry:
                term = _scale(value, float(entry))
                out[i] = term if out[i] is None else out[i] + term
    return out


@dataclass(frozen=True)
class Gradient:
    """The gradient of sum(g * y), before the reductions over elements that share a coefficient.

    Attributes:
        x: elementwise, shape of x.
        weight, rows: the gradient of c_i is the sum of ``weight * rows[i]``.
        denominator_weight, denominator_rows: that of d_j (of abs(d_j) where terms are absolute) likewise.
    """

    x: Any
    weight: Any
    rows: Sequence[Row]
    denominator_weight: Any
    denominator_rows: Sequence[Row]


def gradient(
    ops: GradientOps, config: Config, rows: Sequence[Row], coefficients: Coefficients, slopes: Derivatives, g: Any
) -> Gradient:
    """Explicit backward pass (method.md, "Gradients of safe OPAU"; arXiv 2106.09693), for every form.

    With h = g / Q and y = P / Q: dL/dc_i = h f_i, dL/dd_j = -h y dQ/dd_j, dL/dx = h (P' - y Q'). A common factor of all
    rows cancels, so scaled rows serve as well.
    """
    form = config.denominator_form
    bottom, inner = denominator(ops, form, rows, coefficients.denominator)
    h = ops.divide(g, bottom)
    y = ops.divide(dot(ops, coefficients.numerator, rows), bottom)
    weight = h * y * -1.0
    sums = [dot(ops, line, rows) for line in slopes.denominator]
    used = rows[form.first : form.first + len(coefficients.denominator)]
    slope: Any = None
    if form.absolute == "terms":
        slope = dot(ops, sums, [ops.sign(row) for row in used])
    elif inner is not None:
        slope = sums[0]
        if form.absolute == "sum":
            side = ops.sign(inner)
            slope, weight = None if slope is None else slope * side, weight * side
    if form.minimum is not None and inner is not None:
        live = ops.greater(inner + rows[0] * form.offset, rows[0] * form.minimum)
        slope, weight = None if slope is None else slope * live, weight * live
    change = dot(ops, slopes.numerator, rows)
    if slope is not None:
        pull = slope * (y * -1.0)
        change = pull if change is None else change + pull
    dx = h * 0.0 if change is None else h * change
    return Gradient(dx, h, rows, weight, denominator_rows(ops, form, rows, len(coefficients.denominator)))
