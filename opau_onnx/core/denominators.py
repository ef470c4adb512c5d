"""The denominators of the definition: which there are, and what each does to its terms and to their sum.

``Q = max(minimum, offset + outer(sum_j term(d_j f_j)))``, j from ``first`` to l. Each term is multiplicative,
``term(d f) = weight(d) row(f)``, so that Q is linear in the weights: value, gradient, intervals, ONNX nodes and fits over any
array library are written once, in terms of a :class:`Mode`. The table is part of the definition, :mod:`opau_onnx.core.spec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class Mode:
    """Plain terms: ``term(t) = t``, ``outer(s) = s``. Base of the others.

    ``ops`` are those of :class:`opau_onnx.core.evaluation.Ops`; where a slope is asked for, of
    :class:`opau_onnx.core.gradient.GradientOps`. A slope of None stands for 1.

    Attributes:
        name: of the C++ enumerator.
        power: p, where ``term(s t) = s**p term(t)`` for s > 0.
        by_term: whether ``row`` changes anything, so that Q' is a sum over its terms.
        on_sum: whether ``outer`` does.
        kinks: whose zeros make kinks in Q: of each row, of the sum, of nothing.
    """

    name = "none"
    power = 1
    by_term = False
    on_sum = False
    kinks: Literal["rows", "sum", None] = None

    def weight(self, ops: Any, d: Any) -> Any:
        """The factor of the row for the coefficient ``d``."""
        return d

    def weight_slope(self, ops: Any, d: Any) -> Any:
        """Its derivative by ``d``."""
        return None

    def coefficient(self, weight: Any) -> Any:
        """A coefficient that has this weight, at least 0 where there are several."""
        return weight

    def row(self, ops: Any, f: Any) -> Any:
        """The factor of the weight for the basis value ``f``."""
        return f

    def row_slope(self, ops: Any, f: Any) -> Any:
        """Its derivative by ``f``."""
        return None

    def outer(self, ops: Any, total: Any) -> Any:
        """Q's part of the sum."""
        return total

    def outer_slope(self, ops: Any, total: Any) -> Any:
        """Its derivative by the sum."""
        return None


class AbsoluteTerms(Mode):
    """``term(t) = abs(t)``."""

    name = "terms"
    by_term = True
    kinks = "rows"

    def weight(self, ops: Any, d: Any) -> Any:
        return ops.abs(d)

    def weight_slope(self, ops: Any, d: Any) -> Any:
        return ops.sign(d)

    def row(self, ops: Any, f: Any) -> Any:
        return ops.abs(f)

    def row_slope(self, ops: Any, f: Any) -> Any:
        return ops.sign(f)


class AbsoluteSum(Mode):
    """``outer(s) = abs(s)``."""

    name = "sum"
    on_sum = True
    kinks = "sum"

    def outer(self, ops: Any, total: Any) -> Any:
        return ops.abs(total)

    def outer_slope(self, ops: Any, total: Any) -> Any:
        return ops.sign(total)


TERMS, SUM, NONE = AbsoluteTerms(), AbsoluteSum(), Mode()


@dataclass(frozen=True)
class Form:
    """A denominator, as the module says.

    Attributes:
        name: of the attribute ``form``.
        first: the index of the first coefficient.
        offset, minimum: as above; ``minimum`` is None where there is no bound.
        mode: what happens to the terms and their sum.
        safe: whether Q has no zero for any coefficients.
        formula, used_by: for people.
    """

    name: str
    first: int
    offset: float
    mode: Mode
    minimum: float | None
    safe: bool
    formula: str
    used_by: str


FORMS: dict[str, Form] = {
    f.name: f
    for f in (
        Form("abs_terms", 1, 1.0, TERMS, None, True, "1 + sum_j abs(d_j f_j)", "safe OPAU (HP-1, HP-2), PAU A, KAT"),
        Form("abs_sum", 1, 1.0, SUM, None, True, "1 + abs(sum_j d_j f_j)", "PAU B and, at inference, D"),
        Form("plain", 1, 1.0, NONE, None, False, "1 + sum_j d_j f_j", "OPAU, PAU N"),
        Form("pau_c", 0, 0.1, SUM, None, True, "0.1 + abs(sum_{j>=0} d_j f_j)", "PAU C"),
        Form("clamped", 1, 1.0, NONE, 1e-8, False, "max(1e-8, 1 + sum_j d_j f_j)", "Padé Activation Unit's default"),
        Form("free", 0, 0.0, NONE, None, False, "sum_{j>=0} d_j f_j", "RationalNets"),
    )
}
"""Form name -> denominator. The first three are the method's own; the others represent its peers exactly."""

MODES: tuple[Mode, ...] = tuple(dict.fromkeys(f.mode for f in FORMS.values()))
"""Every mode once, in the order of the C++ enumeration."""
