"""The formula of :mod:`opau_onnx.spec` and its gradients, once, over any array library.

:class:`Ops` is what a library has to offer. The same code builds ONNX function bodies, evaluates blocks of a tensor in
PyTorch, and is what ``torch.compile`` fuses. It holds no branch on data: the caller chooses between
:func:`ordinary_basis`, right up to ``X0``, and :func:`scaled_basis`, right everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from opau_onnx.spec import Config, Form, derivative_table, ordinary_limit


class Ops(Protocol):
    """Elementwise operations with broadcasting; NaN propagates. Values also support ``+ - *``, also with floats."""

    def abs(self, x: Any) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def clamp(self, x: Any, low: float, high: float) -> Any: ...
    def divide(self, x: Any, y: Any) -> Any: ...
    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        """total + x * y, rounded once or twice. May reuse the memory of ``total``, which no caller looks at again."""


class GradientOps(Ops, Protocol):
    """What the gradients need besides."""

    def sign(self, x: Any) -> Any: ...
    def greater(self, x: Any, y: Any) -> Any:
        """1 where x > y, else 0, as a value that can be multiplied."""

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        """total + weight * x * y, where ``weight`` has no elements of its own; may reuse ``total`` likewise."""


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


def ordinary_basis(config: Config, x: Any, ops: Ops | None = None) -> list[Row]:
    """f_0 .. f_m by the recurrence; may overflow beyond ``ordinary_limit(m)``. ``ops`` brings a fused multiply_add."""
    rows: list[Row] = [1.0]
    slope: Any = None
    known: tuple[float, float] | None = None
    for n, (a, b, c) in enumerate(_steps(config.basis, config.top)):
        if known != (a, b):
            slope, known = _affine(ops, x, a, b), (a, b)
        rows.append(_next(ops, slope, rows, c) if n else slope)
    return rows


@lru_cache(maxsize=256)
def _steps(basis: str, top: int) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(a), float(b), float(c)) for a, b, c in Config(basis, degrees=(top, 0)).steps())


def _next(ops: Ops | None, slope: Any, rows: Sequence[Row], c: float) -> Row:
    """slope f_n - c f_{n-1}."""
    if not c:
        return slope * rows[-1]
    if ops is None:
        return slope * rows[-1] - _scale(rows[-2], c)
    if len(rows) == 2:  # f_0 is 1
        return ops.multiply_add(-c, slope, rows[-1])
    return ops.multiply_add(slope * rows[-1], -c, rows[-2])


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
    for n, (a, b, c) in enumerate(_steps(config.basis, config.top)):
        slope = _scale(u, a)
        if b:
            slope = slope + _scale(r, b)
        if n == 0:
            rows.append(slope)
            continue
        value = slope * rows[-1]
        if c:
            square = r * r if square is None else square
            value = value - _scale(square if n == 1 else square * rows[-2], c)
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


def _affine(ops: Ops | None, x: Any, slope: float, constant: float) -> Any:
    if not constant:
        return _scale(x, slope)
    return _scale(x, slope) + constant if ops is None else ops.multiply_add(constant, slope, x)


def dot(ops: Ops, coefficients: Sequence[Any], rows: Sequence[Row], start: float | None = None) -> Any:
    """start + sum_i coefficients_i rows_i; None for an empty sum without start. A coefficient of None stands for zero."""
    total: Any = start
    for value, row in zip(coefficients, rows, strict=False):
        if value is not None:
            total = value * row if total is None else ops.multiply_add(total, value, row)
    return total


def denominator(ops: Ops, form: Form, rows: Sequence[Row], coefficients: Sequence[Any]) -> tuple[Any, Any]:
    """(Q, what :func:`_denominator` says of it)."""
    return _denominator(ops, form, rows[0], denominator_rows(ops, form, rows, len(coefficients)), coefficients)


def _denominator(ops: Ops, form: Form, one: Row, rows: Sequence[Row], coefficients: Sequence[Any]) -> tuple[Any, Any]:
    """(Q, the value that its outermost absolute value or bound acts on; None where the sum is empty)."""
    # Where f_0 is the plain 1, the sum may start from the offset, which saves an addition.
    start = form.offset if form.offset and isinstance(one, float) and form.absolute != "sum" and coefficients else None
    inner = dot(ops, coefficients, rows, start)
    total = ops.abs(inner) if form.absolute == "sum" and inner is not None else inner
    if form.offset and start is None:
        offset = _scale(one, form.offset)
        total = offset if total is None else total + offset
    if form.absolute != "sum" and inner is not None:
        inner = total
    return (total if form.minimum is None or inner is None else ops.maximum(total, _scale(one, form.minimum))), inner


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
    """The derivatives' coefficients, from those of P and of the denominator's sum."""
    table = _entries(config.basis, config.top)
    first = config.denominator_form.first
    top = _combine(table, list(enumerate(coefficients.numerator)))
    indexed = list(enumerate(coefficients.denominator, start=first))
    if config.denominator_form.absolute == "terms":
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
        slope: the gradient of x is ``weight * slope``; 0.0 where y is constant or the gradient was not asked for.
        weight, rows: the gradient of c_i is the sum of ``weight * rows[i]``.
        denominator_weight, denominator_rows: that of d_j (of abs(d_j) where terms are absolute) likewise.
    """

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
) -> Gradient:
    """Explicit backward pass (method.md, "Gradients of safe OPAU"; arXiv 2106.09693), for every form.

    With h = g / Q and y = P / Q: dL/dc_i = h f_i, dL/dd_j = -h y dQ/dd_j, dL/dx = h (P' - y Q'). A common factor of all
    rows cancels, so scaled rows serve as well. Without ``slopes`` the gradient of x is left out.
    """
    form = config.denominator_form
    factors = denominator_rows(ops, form, rows, len(coefficients.denominator))
    bottom, inner = _denominator(ops, form, rows[0], factors, coefficients.denominator)
    h = ops.divide(g, bottom)
    minus_y = ops.divide(dot(ops, [c * -1.0 for c in coefficients.numerator], rows), bottom)
    side: Any = None  # dQ / d(sum of the denominator), where it is not 1
    if form.absolute == "sum" and inner is not None:
        side = ops.sign(inner)
    elif form.minimum is not None and inner is not None:
        side = ops.greater(inner, _scale(rows[0], form.minimum))
    weight = h * minus_y if side is None else h * minus_y * side
    slope = 0.0 if slopes is None else _slope(ops, config, rows, slopes, minus_y, side)
    return Gradient(slope, h, rows, weight, factors)


def _slope(ops: GradientOps, config: Config, rows: Sequence[Row], slopes: Derivatives, minus_y: Any, side: Any) -> Any:
    """P' - y Q'."""
    change = dot(ops, slopes.numerator, rows)
    if config.denominator_form.absolute == "terms":
        pull = _absolute_slope(ops, slopes, rows, rows[config.denominator_form.first :])
    else:
        pull = dot(ops, slopes.denominator[0], rows)
        pull = pull if side is None or pull is None else side * pull
    if pull is None:
        return 0.0 if change is None else change
    return minus_y * pull if change is None else ops.multiply_add(change, minus_y, pull)


def _absolute_slope(ops: GradientOps, slopes: Derivatives, rows: Sequence[Row], used: Sequence[Row]) -> Any:
    """sum_j sign(f_j) d_j f_j'; None for an empty sum."""
    total: Any = None
    for line, row in zip(slopes.denominator, used, strict=False):
        side = ops.sign(row)
        for value, other in zip(line, rows, strict=True):
            if value is not None:
                total = side * (value * other) if total is None else ops.weighted_add(total, value, other, side)
    return total
