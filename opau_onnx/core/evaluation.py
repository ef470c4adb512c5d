"""The formula of :mod:`opau_onnx.core.spec`, once, over any array library; its gradients are in :mod:`opau_onnx.core.gradient`.

:class:`Ops` is what a library has to offer. The same code builds ONNX function bodies, evaluates blocks of a tensor in
PyTorch, and is what ``torch.compile`` fuses. It holds no branch on data: the caller chooses between
:func:`ordinary_basis` or :func:`fused_basis`, right up to ``X0``, and :func:`scaled_basis`, right everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

from opau_onnx.core.denominators import Form
from opau_onnx.core.spec import Config


class Ops(Protocol):
    """Elementwise operations with broadcasting; NaN propagates. Values also support ``+ - *``, also with floats."""

    def abs(self, x: Any) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def clamp(self, x: Any, low: float, high: float) -> Any: ...
    def divide(self, x: Any, y: Any) -> Any: ...
    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        """total + x * y, rounded once or twice. May reuse the memory of ``total``, which no caller looks at again."""


class FusedOps(Ops, Protocol):
    """Operations that :func:`fused_basis` needs besides."""

    def multiply(self, x: Any, y: Any) -> Any: ...
    def weighted_sum(self, total: Any, weight: float, x: Any, y: Any) -> Any:
        """total + weight * x * y; leaves ``total`` alone."""


@dataclass(frozen=True)
class Coefficients:
    """Coefficients as separate values that broadcast against x.

    Attributes:
        numerator: c_0 .. c_k.
        denominator: the weights of d_first .. d_l: see :class:`opau_onnx.core.denominators.Mode`.
        beyond: for i = 1 .. m, 1 where every coefficient of degree i and above is zero, else 0; None where it is known that
            one is not; empty where only the ordinary basis is used.
    """

    numerator: Sequence[Any]
    denominator: Sequence[Any]
    beyond: Sequence[Any] = ()


Row = Any
"""f_n(x), or f_n(x) / s**M; f_0 may stand as the float 1.0."""


def ordinary_basis(config: Config, x: Any) -> list[Row]:
    """f_0 .. f_m by the recurrence; may overflow beyond ``ordinary_limit(m)``."""
    rows: list[Row] = [1.0]
    for n, (a, b, c) in enumerate(_steps(config.basis, config.top)):
        slope = _scale(x, a) + b if b else _scale(x, a)
        if n == 0:
            rows.append(slope)
            continue
        value = slope * rows[-1]
        rows.append(value - _scale(rows[-2], c) if c else value)
    return rows


@lru_cache(maxsize=256)
def _steps(basis: str, top: int) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(a), float(b), float(c)) for a, b, c in Config(basis, degrees=(top, 0)).steps())


def fused_basis(ops: FusedOps, config: Config, x: Any) -> list[Row]:
    """g_0 .. g_m with g_n = f_n / alpha_n, for the alpha_n of :func:`fused_factors`: each step is one multiply-add,
    g_{n+1} = g_{n-1} + w_n (x + b_n / a_n) g_n. In range as :func:`ordinary_basis`."""
    rows: list[Row] = [1.0]
    for n, (offset, weight) in enumerate(_fused_steps(config.basis, config.top)):
        slope = x + offset if offset else x
        if n == 0:
            rows.append(slope)
        elif weight is None:
            rows.append(ops.multiply(slope, rows[-1]))
        else:
            rows.append(ops.weighted_sum(rows[-2], weight, slope, rows[-1]))
    return rows


@lru_cache(maxsize=256)
def fused_factors(basis: str, top: int) -> tuple[Fraction, ...]:
    """alpha_0 .. alpha_m: alpha_{n+1} = -c_n alpha_{n-1}, or a_n alpha_n where c_n is zero."""
    out = [Fraction(1)]
    for a, _, c in Config(basis, degrees=(top, 0)).steps():
        out.append(-c * out[-2] if c else a * out[-1])
    return tuple(out)


@lru_cache(maxsize=256)
def _fused_steps(basis: str, top: int) -> tuple[tuple[float, float | None], ...]:
    """(b_n / a_n, w_n) of each step; w_n is None where c_n is zero."""
    alpha = fused_factors(basis, top)
    steps = Config(basis, degrees=(top, 0)).steps()
    return tuple((float(b / a), float(a * alpha[n] / alpha[n + 1]) if c else None) for n, (a, b, c) in enumerate(steps))


def scaled_basis(ops: Ops, config: Config, x: Any, beyond: Sequence[Any]) -> list[Row]:
    """T_0 .. T_m with T_i = f_i(x) / s**M, s = max(1, abs(x) / X0), M the largest degree in use.

    With r = 1 / s and u = clamp(x, -X0, X0) = x r, the homogeneous F_i = r**i f_i(x) follows
    F_{n+1} = (a u + b r) F_n - c r**2 F_{n-1}, and T_i = r**(M - i) F_i: every factor is bounded. Degrees above M are not
    in use, so their weight stays 1 (``beyond``): otherwise leading zero coefficients would drive P and Q to 0 / 0.
    """
    r, rows = _homogeneous(ops, config, x)
    return _weighted(rows, _weights(ops, r, beyond))


@dataclass(frozen=True)
class Lower:
    """Rows for derivatives, of one degree less, beyond X0: U_i = f_i(x) / s**(M - 1) for i < M, and r = 1 / s."""

    rows: Sequence[Row]
    r: Any


def scaled_bases(ops: Ops, config: Config, x: Any, beyond: Sequence[Any]) -> tuple[list[Row], Lower]:
    """:func:`scaled_basis` and the rows of the derivatives: r**2 underflows where r does not, so one cannot give the other."""
    r, rows = _homogeneous(ops, config, x)
    weights = _weights(ops, r, beyond)
    return _weighted(rows, weights), Lower(_weighted(rows, weights[1:]), r)


def _homogeneous(ops: Ops, config: Config, x: Any) -> tuple[Any, list[Row]]:
    """r and F_0 .. F_m."""
    limit = config.limit
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
    return r, rows


def _weights(ops: Ops, r: Any, beyond: Sequence[Any]) -> list[Any]:
    """r**(M - i) for i = 0 .. m - 1."""
    out: list[Any] = []
    for unused in reversed(beyond):
        factor = r if unused is None else ops.maximum(r, unused)
        out.append(out[-1] * factor if out else factor)
    return out[::-1]


def _weighted(rows: Sequence[Row], weights: Sequence[Any]) -> list[Row]:
    """Each of the first rows times its weight; F_0 is 1."""
    scaled = [weight if i == 0 else weight * rows[i] for i, weight in enumerate(weights)]
    return scaled + list(rows[len(weights) :])


def _scale(x: Any, factor: float) -> Any:
    """x times a constant, without the multiplication where it is 1."""
    return x if factor == 1.0 else x * factor


def dot(ops: Ops, coefficients: Sequence[Any], rows: Sequence[Row], start: float | None = None) -> Any:
    """start + sum_i coefficients_i rows_i; None for an empty sum without start. A coefficient of None stands for zero."""
    total: Any = start
    for value, row in zip(coefficients, rows, strict=False):
        if value is not None:
            total = value * row if total is None else ops.multiply_add(total, value, row)
    return total


def denominator(ops: Ops, form: Form, rows: Sequence[Row], coefficients: Sequence[Any]) -> tuple[Any, Any]:
    """(Q, what :func:`denominator_of` says of it)."""
    return denominator_of(ops, form, rows[0], denominator_rows(ops, form, rows, len(coefficients)), coefficients)


def denominator_of(ops: Ops, form: Form, one: Row, rows: Sequence[Row], coefficients: Sequence[Any]) -> tuple[Any, Any]:
    """(Q, the value that its outer function or bound acts on; None where the sum is empty).

    Where rows are divided by s**M, ``one`` is s**-M and Q is divided by s**(p M), p the power of its terms.
    """
    mode = form.mode
    one = power(one, mode.power)
    # Where f_0 is the plain 1, the sum may start from the offset, which saves an addition.
    start = form.offset if form.offset and isinstance(one, float) and not mode.on_sum and coefficients else None
    inner = dot(ops, coefficients, rows, start)
    total = mode.outer(ops, inner) if inner is not None else None
    if form.offset and start is None:
        offset = _scale(one, form.offset)
        total = offset if total is None else total + offset
    if not mode.on_sum and inner is not None:
        inner = total
    return (total if form.minimum is None or inner is None else ops.maximum(total, _scale(one, form.minimum))), inner


def denominator_rows(ops: Ops, form: Form, rows: Sequence[Row], count: int) -> list[Row]:
    """The rows that the denominator's weights multiply."""
    return [form.mode.row(ops, row) for row in rows[form.first : form.first + count]]


def numerator_rows(form: Form, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that the numerator's coefficients multiply, divided by the same power of s as Q."""
    one = power(rows[0], form.mode.power - 1)
    return rows if isinstance(one, float) else [row * one for row in rows]


def power(one: Row, exponent: int) -> Row:
    """f_0 to a power; 1.0 stays 1.0."""
    if isinstance(one, float) or exponent == 0:
        return 1.0
    return one if exponent == 1 else one * power(one, exponent - 1)


def parts(ops: Ops, config: Config, rows: Sequence[Row], coefficients: Coefficients) -> tuple[Any, Any]:
    """P and Q from the basis rows, over a common factor; P is None where it has no term."""
    form = config.denominator_form
    bottom, _ = denominator(ops, form, rows, coefficients.denominator)
    return dot(ops, coefficients.numerator, numerator_rows(form, rows)), bottom


def rational(ops: Ops, config: Config, rows: Sequence[Row], coefficients: Coefficients) -> Any:
    """y = P / Q from the basis rows."""
    top, bottom = parts(ops, config, rows, coefficients)
    return ops.divide(_scale(rows[0], 0.0) if top is None else top, bottom)


def constant_rows(ops: Ops, x: Any) -> list[Row]:
    """The basis at degrees (0, 0): 1 for every element, but NaN stays NaN; the clamp keeps inf from becoming NaN."""
    return [ops.clamp(x, -1.0, 1.0) * 0.0 + 1.0]
