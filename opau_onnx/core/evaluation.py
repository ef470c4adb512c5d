"""The formula of :mod:`opau_onnx.core.spec`, once, over any array library; its gradients are in :mod:`opau_onnx.core.gradient`.

:class:`Ops` is what a library has to offer. The same code builds ONNX function bodies, evaluates tensors in PyTorch and
Keras, and is what ``torch.export`` decomposes to. It holds no branch on data: the caller chooses between
:func:`ordinary_basis`, right up to ``X0``, and :func:`scaled_basis`, right everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from opau_onnx.core.denominators import Form
from opau_onnx.core.spec import CommonFactor, Config, common_factor


class Ops(Protocol):
    """Elementwise operations with broadcasting; NaN propagates. Values also support ``+ - *``, also with floats."""

    def abs(self, x: Any) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def clamp(self, x: Any, low: float, high: float) -> Any: ...
    def divide(self, x: Any, y: Any) -> Any: ...
    def where_nonzero(self, test: Any, x: Any, y: Any) -> Any:
        """x where ``test`` is not zero (NaN is not), else y."""

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        """total + x * y, rounded once or twice. May reuse the memory of ``total``, which no caller looks at again."""


@dataclass(frozen=True)
class Coefficients:
    """Coefficients as separate values that broadcast against x.

    Attributes:
        numerator: c_0 .. c_k.
        denominator: the weights of d_first .. d_l: see :class:`opau_onnx.core.denominators.Mode`.
        beyond: for i = 1 .. m, 1 where every coefficient of degree i and above is zero, else 0; None where it is known that
            one is not; empty where only the ordinary basis is used.
        factor: what P and Q beyond X0 are multiplied with, from :func:`factor_of`; None stands for 1.
    """

    numerator: Sequence[Any]
    denominator: Sequence[Any]
    beyond: Sequence[Any] = ()
    factor: Any = None


def factor_table(config: Config) -> CommonFactor:
    """:func:`opau_onnx.core.spec.common_factor` of a configuration."""
    return common_factor(config.basis, config.top, config.denominator_form.mode.power)


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


def scaled_basis(ops: Ops, config: Config, x: Any, beyond: Sequence[Any], factor: Any = None) -> list[Row]:
    """T_0 .. T_m with T_i = f_i(x) / s**M, s = max(1, abs(x) / X0), M the largest degree in use; times ``factor`` where given.

    With r = 1 / s and u = clamp(x, -X0, X0) = x r, the homogeneous F_i = r**i f_i(x) follows
    F_{n+1} = (a u + b r) F_n - c r**2 F_{n-1}, and T_i = r**(M - i) F_i: every factor is bounded. Degrees above M are not
    in use, so their weight stays 1 (``beyond``): otherwise leading zero coefficients would drive P and Q to 0 / 0.
    """
    r, rows = _homogeneous(ops, config, x)
    if factor is None:
        return _weighted(rows, _weights(ops, r, beyond))
    # The powers of r start from the factor, and do not underflow before it counts.
    return [*_weighted(rows[:-1], _weights(ops, r, beyond, factor)), rows[-1] * factor]


@dataclass(frozen=True)
class Lower:
    """Scaled values that derivatives need beyond X0.

    Attributes:
        rows: of one degree less, U_i = f_i(x) / s**(M - 1) for i < M.
        r: 1 / s.
        above: for i = 0 .. m the factor that T_i lacks where i is above M, s**(i - M); 1 up to M. The coefficient there is 0,
            so the value does not see it; its gradient does.
    """

    rows: Sequence[Row]
    r: Any
    above: Sequence[Any]


def scaled_bases(ops: Ops, config: Config, x: Any, beyond: Sequence[Any]) -> tuple[list[Row], Lower]:
    """:func:`scaled_basis` and the rows of the derivatives: r**2 underflows where r does not, so one cannot give the other."""
    r, rows = _homogeneous(ops, config, x)
    weights = _weights(ops, r, beyond)
    above: list[Any] = [1.0]
    for unused in beyond:
        above.append(ops.divide(above[-1], ops.maximum(r, 1.0 - unused)))
    return _weighted(rows, weights), Lower(_weighted(rows, weights[1:]), r, above)


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


def _weights(ops: Ops, r: Any, beyond: Sequence[Any], start: Any = None) -> list[Any]:
    """start r**(M - i) for i = 0 .. m - 1."""
    out: list[Any] = []
    for unused in reversed(beyond):
        step = r if unused is None else ops.maximum(r, unused)
        start = step if start is None else start * step
        out.append(start)
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


def leading_sign(ops: Ops, config: Config, coefficients: Sequence[Any]) -> tuple[Any, Any] | None:
    """(a, b), a + b sign(x) having the sign of Q's leading term far out; None where Q is positive or never zero by underflow.

    Beyond X0, Q is divided by a power of x that may be higher than its own degree, and underflows to a zero whose sign says
    nothing; runtimes differ in how they select between zeros, so that none is used here.
    """
    form = config.denominator_form
    if config.top == 0 or form.mode.kinks is not None or form.minimum is not None:
        return None
    even, odd, lead = form.offset, 0.0, 1.0
    for n in range(config.degrees[1] + 1):
        value = coefficients[n - form.first] if 0 <= n - form.first < len(coefficients) else None
        if value is not None:
            term, other = value * lead, value * 0.0
            even = ops.where_nonzero(value, other if n % 2 else term, even)
            odd = ops.where_nonzero(value, term if n % 2 else other, odd)
        lead *= 1.0 if n >= config.top or config.steps()[n].a > 0 else -1.0
    return even, odd


def quotient(ops: Ops, x: Any, top: Any, bottom: Any, sign: tuple[Any, Any] | None) -> Any:
    """top / bottom; where the bottom is zero, an infinity of the sign that :func:`leading_sign` says."""
    if sign is None:
        return ops.divide(top, bottom)
    even, odd = sign
    side = ops.clamp(x, -1.0, 1.0) * odd + even
    return ops.divide(ops.where_nonzero(bottom, top, top * side), ops.where_nonzero(bottom, bottom, 0.0))


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


def basis_rows(ops: Ops, config: Config, x: Any, coefficients: Coefficients) -> list[Row]:
    """The basis for any x, as the coefficients in use need it."""
    if config.top == 0:
        return constant_rows(ops, x)
    return scaled_basis(ops, config, x, coefficients.beyond, coefficients.factor)


def rational(ops: Ops, config: Config, rows: Sequence[Row], coefficients: Coefficients, x: Any = None) -> Any:
    """y = P / Q from the basis rows, which may have a common factor; for scaled rows with the ``x`` that they were made of."""
    form = config.denominator_form
    top = dot(ops, coefficients.numerator, numerator_rows(form, rows))
    bottom, _ = denominator(ops, form, rows, coefficients.denominator)
    sign = None if x is None else leading_sign(ops, config, coefficients.denominator)
    return quotient(ops, x, _scale(rows[0], 0.0) if top is None else top, bottom, sign)


def value(ops: Ops, config: Config, x: Any, coefficients: Coefficients) -> Any:
    """y at any x."""
    return rational(ops, config, basis_rows(ops, config, x, coefficients), coefficients, x)


def constant_rows(ops: Ops, x: Any) -> list[Row]:
    """The basis at degrees (0, 0): 1 for every element, but NaN stays NaN; the clamp keeps inf from becoming NaN."""
    return [ops.clamp(x, -1.0, 1.0) * 0.0 + 1.0]
