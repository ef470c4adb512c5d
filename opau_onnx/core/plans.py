"""Cheaper ways to evaluate an activation whose coefficients are constant, over any array library.

The function body of an exported file is right for any coefficients and every input. With the coefficients known, sums of basis
rows may become polynomials, absolute values of weights are taken beforehand, and the scaling beyond X0 may become a clamp:

* u = clamp(x, -U, U) with U so large that P(u) / Q(u) is rounded to the asymptote there;
* y = P(u) / Q(u) + slope (x - u), where the degrees make f grow linearly, or y = P(u) / Q(u) where f has a limit.

Which of these is accurate enough depends on the coefficients: :mod:`opau_onnx.core.plan_search` tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Protocol

import numpy as np

from opau_onnx.core import evaluation
from opau_onnx.core.bases import polynomials
from opau_onnx.core.frozen import Array, Frozen
from opau_onnx.core.numpy_ops import NumpyOps


@dataclass(frozen=True)
class EvaluationPlan:
    """How P, Q and large inputs are evaluated.

    Attributes:
        numerator: "monomials" (Horner's rule) or "rows" (a sum of basis polynomials, from their recurrence).
        denominator: likewise, and "closed": rows of a symmetric basis up to degree 4 in x**2.
        normalized: P and Q are divided by Q's leading weight, which saves a multiplication.
        clamped: large inputs as described above; else scaled, as in the function body.
    """

    numerator: Literal["monomials", "rows"] = "rows"
    denominator: Literal["monomials", "rows", "closed"] = "rows"
    normalized: bool = False
    clamped: bool = False

    def __str__(self) -> str:
        if not self.clamped:
            return "recurrence, scaled"
        return f"P by {self.numerator}, Q by {self.denominator}"

    def evaluate(self, ops: evaluation.Ops, frozen: Frozen, x: Any) -> Any:
        """As :func:`evaluate`."""
        return evaluate(ops, frozen, self, x)

    def key(self) -> tuple[Any, ...]:
        """Equal for equal schemes."""
        return (self.numerator, self.denominator, self.normalized, self.clamped)


class Evaluation(Protocol):
    """A way to evaluate an activation: a scheme, or something that takes its place within a tolerance."""

    def evaluate(self, ops: Any, frozen: Frozen, x: Any) -> Any:
        """f(x); x broadcasts against the coefficients' shapes () or (groups, 1)."""

    def key(self) -> tuple[Any, ...]:
        """Equal for ways that give the same bits."""


SCALED = EvaluationPlan()
"""The function body's own way; always applicable."""


def plans(frozen: Frozen) -> list[EvaluationPlan]:
    """Those that apply to this activation."""
    config = frozen.config
    mode = config.denominator_form.mode
    symmetric = polynomials(config.basis).symmetric
    found = [SCALED]
    if Tail.of(frozen) is None or config.top == 0:
        return found
    denominators = ["rows"]
    if not mode.by_term or config.basis == "power":
        denominators.append("monomials")
    elif symmetric and config.degrees[1] <= 4:
        denominators.append("closed")
    for top, bottom, normalized in product(("monomials", "rows"), denominators, (True, False)):
        found.append(EvaluationPlan(top, bottom, normalized, clamped=True))  # type: ignore[arg-type]
    return found


@dataclass(frozen=True, eq=False)
class Tail:
    """Tail of the function beyond the largest input that is evaluated.

    Attributes:
        slope: of the asymptote, to be multiplied with x - u; None where f has a limit.
        even: f grows with abs(x), not with x.
    """

    slope: Array | None
    even: bool

    @staticmethod
    def of(frozen: Frozen) -> Tail | None:
        """None where f grows faster, falls to zero, or may be clamped at large inputs."""
        k, l = frozen.config.degrees
        form = frozen.config.denominator_form
        if form.mode.power != 1 or form.minimum is not None or k - l not in (0, 1) or frozen.config.denominator_size < 1:
            return None
        leading = [float(v) for v in polynomials(frozen.config.basis).leading]
        top = frozen.column("numerator", k) * leading[k]
        bottom = frozen.column("denominator", l - form.first) * leading[l]
        if l == 0 or not (np.all(top) and np.all(bottom)):  # rows of different degrees
            return None
        absolute = form.mode.kinks is not None
        slope = top / (np.abs(bottom) if absolute else bottom)
        return Tail(slope if k > l else None, even=absolute and l % 2 == 1)


def evaluate(ops: evaluation.Ops, frozen: Frozen, scheme: EvaluationPlan, x: Any) -> Any:
    """f(x).

    Args:
        ops: the library.
        frozen: which function.
        scheme: how.
        x: broadcasts against the coefficients' shapes () or (groups, 1).
    """
    if frozen.affine is not None:
        scale, shift = (_cast(frozen, v.reshape(-1, 1)) for v in frozen.affine)
        x = x * scale + shift
    if not scheme.clamped:
        return _scaled(ops, frozen, x)
    limit, tail = clamp_limit(frozen), Tail.of(frozen)
    assert tail is not None
    u = ops.clamp(x, -limit, limit)
    y = _Rational(ops, frozen, scheme, u).value()
    if tail.slope is None:
        return y
    beyond = x - u
    return y + _times(ops.abs(beyond) if tail.even else beyond, _cast(frozen, tail.slope))


def clamp_limit(frozen: Frozen) -> float:
    """U: a power of two so large that neither P nor Q, normalized or not, can overflow up to it, and no larger than helps."""
    config = frozen.config
    rows = max(abs(v) for row in polynomials(config.basis).monomials[: config.top + 1] for v in row)
    values = max(float(np.abs(v).max(initial=1.0)) for v in (frozen.numerator, frozen.denominator))
    lead = np.abs(frozen.column("denominator", config.denominator_size - 1)).min()
    largest, enough = EXPONENTS[frozen.compute]
    room = largest - np.log2(values * float(rows) * (config.top + 1) / min(float(lead), 1.0))
    return float(2.0 ** max(min(room // max(config.top, 1), enough), 1))


EXPONENTS = {"float32": (120, 40), "float64": (1000, 200)}
"""Of the largest sum that is allowed, and of the largest U."""


def _scaled(ops: evaluation.Ops, frozen: Frozen, x: Any) -> Any:
    config, known = frozen.config, frozen.coefficients()
    rows = (
        evaluation.constant_rows(ops, x)
        if config.top == 0
        else evaluation.scaled_basis(ops, config, x, _beyond(frozen), _factor(frozen))
    )
    numerator, denominator = ([_nonzero(_cast(frozen, v)) for v in some] for some in (known.numerator, known.denominator))
    top = evaluation.dot(ops, numerator, evaluation.numerator_rows(config.denominator_form, rows))
    bottom, _ = evaluation.denominator(ops, config.denominator_form, rows, denominator)
    sign = evaluation.leading_sign(NumpyOps(), config, denominator)
    return evaluation.quotient(ops, x, _times(rows[0], 0.0) if top is None else top, bottom, sign)


def _beyond(frozen: Frozen) -> list[Any]:
    """As :class:`opau_onnx.core.evaluation.Coefficients` says."""
    config, first = frozen.config, frozen.config.denominator_form.first
    found = []
    for n in range(1, config.top + 1):
        used = [frozen.column("numerator", i) != 0 for i in range(n, config.numerator_size)]
        used += [frozen.column("denominator", j) != 0 for j in range(max(n - first, 0), config.denominator_size)]
        anything = np.logical_or.reduce(np.broadcast_arrays(*used))
        found.append(None if anything.all() else _cast(frozen, np.where(anything, 0.0, 1.0)))
    return found


def _factor(frozen: Frozen) -> Any:
    """As :func:`opau_onnx.core.spec.common_factor` says; None where it is 1."""
    table, first = evaluation.factor_table(frozen.config), frozen.config.denominator_form.first
    leading: Any = 0.0
    for n in range(1, frozen.config.top + 1):
        used = [np.abs(frozen.column("numerator", n))] if n < frozen.config.numerator_size else []
        used += [np.abs(frozen.column("denominator", n - first))] if 0 <= n - first < frozen.config.denominator_size else []
        size = np.maximum.reduce(np.broadcast_arrays(*used)) * table.sizes[n]
        leading = np.where(size != 0, size, leading)
    with np.errstate(divide="ignore"):
        factor = np.clip(table.enough / leading, 1.0, table.most)
    return None if np.all(factor == 1.0) else _cast(frozen, factor)


def _nonzero(value: Any) -> Any:
    return value if np.any(value) else None


def _cast(frozen: Frozen, value: Any) -> Any:
    return np.asarray(value, dtype=frozen.compute)


def _times(value: Any, factor: Any) -> Any:
    return value if np.all(np.asarray(factor) == 1.0) else value * factor


def _plus(value: Any, term: Any) -> Any:
    return value if not np.any(term) else value + term


class _Rational:
    """P(u) / Q(u), no input scaled."""

    def __init__(self, ops: evaluation.Ops, frozen: Frozen, scheme: EvaluationPlan, u: Any) -> None:
        self.ops, self.frozen, self.scheme, self.u = ops, frozen, scheme, u
        self.basis = polynomials(frozen.config.basis)
        self.rows: list[Any] = [1.0]
        form, first = frozen.config.denominator_form, frozen.config.denominator_form.first
        # Weights of the monic rows 0 .. l.
        leads = [form.mode.weight(np, float(v)) for v in self.basis.leading[first:]]
        self.weights: list[Array] = [np.zeros(())] * first
        self.weights += [w * lead for w, lead in zip(frozen.coefficients().denominator, leads, strict=False)]
        self.scale = self._scale() if scheme.normalized else np.ones(())

    def _scale(self) -> Array:
        """Q's leading weight; positive where an absolute value or a bound acts on Q."""
        lead = self.weights[-1]
        return lead if self.frozen.config.denominator_form.mode.kinks is None else np.abs(lead)

    def constant(self, value: Any) -> Any:
        """In the dtype of computation, divided by the common scale."""
        return _cast(self.frozen, value / self.scale)

    def value(self) -> Any:
        return self.ops.divide(self._numerator(), self._denominator())

    def _numerator(self) -> Any:
        columns = [self.frozen.column("numerator", i) for i in range(self.frozen.config.numerator_size)]
        if self.scheme.numerator == "monomials":
            return self._horner(self._monomials(columns), self.u)
        return self._dot([c * float(lead) for c, lead in zip(columns, self.basis.leading, strict=False)], absolute=False)

    def _monomials(self, columns: list[Array], monic: bool = False) -> list[Array]:
        """Coefficients of the powers in sum_i columns_i f_i, or g_i where monic."""
        found = []
        rows = zip(self.basis.monomials, self.basis.leading, strict=True)
        table = [[v / lead if monic else v for v in row] for row, lead in rows]
        for n in range(len(columns)):
            parts = [float(row[n]) for row in table]
            found.append(sum((c * p for c, p in zip(columns, parts, strict=False)), start=np.zeros(())))
        return found

    def _horner(self, coefficients: list[Array], x: Any) -> Any:
        if len(coefficients) > 2 and not any(np.any(c) for c in coefficients[1::2]):
            return self._horner(coefficients[::2], x * x)  # even: half the steps
        values = [self.constant(c) for c in coefficients]
        total = _times(x, values[-1]) if len(values) > 1 else values[-1]
        for i in range(len(values) - 2, -1, -1):
            total = _plus(total, values[i])
            total = total * x if i else total
        return total

    def _row(self, n: int) -> Any:
        """Monic g_n(u)."""
        while len(self.rows) <= n:
            m = len(self.rows) - 1
            slope = _plus(self.u, self._exact(self.basis.shift[m]))
            value = slope if m == 0 else slope * self.rows[m]
            if m and self.basis.gamma[m]:
                value = value - _times(self.rows[m - 1], self._exact(self.basis.gamma[m]))
            self.rows.append(value)
        return self.rows[n]

    def _exact(self, value: Any) -> Any:
        return _cast(self.frozen, float(value))

    def _dot(self, weights: list[Array], *, absolute: bool) -> Any:
        """sum_n weights_n g_n, or of abs(g_n); the constant term joins last but one, as a constant."""
        total = None
        for n in range(len(weights) - 1, 0, -1):
            if np.any(weights[n]):
                row = self.ops.abs(self._row(n)) if absolute else self._row(n)
                term = _times(row, self.constant(weights[n]))
                total = term if total is None else total + term
        return self.constant(weights[0]) if total is None else _plus(total, self.constant(weights[0]))

    def _denominator(self) -> Any:
        form = self.frozen.config.denominator_form
        if form.mode.on_sum:
            return _plus(self.ops.abs(self._inner(np.zeros(()))), self.constant(np.asarray(form.offset)))
        total = self._inner(np.asarray(form.offset))
        return total if form.minimum is None else self.ops.maximum(total, self.constant(np.asarray(form.minimum)))

    def _inner(self, offset: Array) -> Any:
        """offset + the sum of Q's terms."""
        terms = self.frozen.config.denominator_form.mode.by_term
        weights = [self.weights[0] + offset, *self.weights[1:]]
        if self.scheme.denominator == "closed":
            return self._closed(weights)
        if self.scheme.denominator == "monomials":
            return self._horner(self._monomials(weights, monic=True), self.ops.abs(self.u) if terms else self.u)
        return self._dot(weights, absolute=terms)

    def _closed(self, weights: list[Array]) -> Any:
        """weights_0 + sum_n weights_n abs(g_n) for n up to 4, in t = u**2."""
        w = [*weights, *[np.zeros(())] * (5 - len(weights))]
        centre = self.basis.centre
        t = self.u * self.u
        total = None
        if np.any(w[4]):
            root = _plus(t, self._exact(-centre[4]))
            g4 = _plus(root * root, self._exact(-self.basis.rest))
            total = _times(self.ops.abs(g4) if self.basis.rest else g4, self.constant(w[4]))
        if np.any(w[3]) or np.any(w[1]):
            total = self._sum(total, self._odd(t, w))
        if np.any(w[2]):
            g2 = _plus(t, self._exact(-centre[2]))
            total = self._sum(total, _times(self.ops.abs(g2) if centre[2] else g2, self.constant(w[2])))
        constant = self.constant(w[0])
        return constant if total is None else _plus(total, constant)

    def _odd(self, t: Any, w: list[Array]) -> Any:
        """weights_1 abs(u) + weights_3 abs(u (t - centre_3))."""
        size = self.ops.abs(self.u)
        if not np.any(w[3]):
            return _times(size, self.constant(w[1]))
        g3 = _plus(t, self._exact(-self.basis.centre[3]))
        factor = _times(self.ops.abs(g3) if self.basis.centre[3] else g3, self.constant(w[3]))
        return _plus(factor, self.constant(w[1])) * size

    @staticmethod
    def _sum(total: Any, term: Any) -> Any:
        return term if total is None else total + term
