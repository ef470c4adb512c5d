"""Gradients of y = P / Q by the definition, in rational arithmetic: form by form, sharing nothing with what is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from opau_onnx.core.spec import Config
from tests.cases import monomials

ZERO = Fraction(0)


@dataclass(frozen=True)
class ExactGradient:
    """dy/dx, dy/dc and dy/dd of one element, and what roundings of relative size u may change of each, over u.

    Attributes:
        y: the value.
        x, numerator, denominator: the derivatives.
        x_size, numerator_sizes, denominator_sizes: sums of magnitudes, those of monomials.
        rows: the magnitudes of the f_j of the denominator.
        kink: whether an absolute value's argument is too near zero, or Q too near its minimum, for a sign to be certain; and
            at a pole.
    """

    y: Fraction
    x: Fraction
    numerator: list[Fraction]
    denominator: list[Fraction]
    x_size: Fraction
    numerator_sizes: list[Fraction]
    denominator_sizes: list[Fraction]
    rows: list[Fraction]
    kink: bool


def sign(v: Fraction) -> int:
    return (v > 0) - (v < 0)


def _rows(config: Config, x: Fraction) -> list[tuple[Fraction, Fraction, Fraction, Fraction]]:
    """f_n, the sum of its monomials' magnitudes, f_n' and likewise."""
    powers = [Fraction(1)]
    for _ in range(config.top):
        powers.append(powers[-1] * x)
    found = []
    for n in range(config.top + 1):
        terms = [m * p for m, p in zip(monomials(config.basis, n), powers, strict=False)]
        slopes = [i * m * powers[i - 1] for i, m in enumerate(monomials(config.basis, n)) if i]
        found.append((sum(terms, ZERO), sum(map(abs, terms), ZERO), sum(slopes, ZERO), sum(map(abs, slopes), ZERO)))
    return found


def exact_gradient(config: Config, x: Any, numerator: Sequence[Any], denominator: Sequence[Any], u: float) -> ExactGradient:
    """All derivatives at one element with one row of coefficients; ``u``: the arithmetic's roundoff."""
    rows = _rows(config, Fraction(x))
    c, d = [Fraction(v) for v in numerator], [Fraction(v) for v in denominator]
    first = 0 if config.form in ("pau_c", "free") else 1
    tail = rows[first : first + len(d)]
    top = sum((ci * r[0] for ci, r in zip(c, rows, strict=False)), ZERO)
    top_size = sum((abs(ci) * r[1] for ci, r in zip(c, rows, strict=False)), ZERO)
    rise = sum((ci * r[2] for ci, r in zip(c, rows, strict=False)), ZERO)
    rise_size = sum((abs(ci) * r[3] for ci, r in zip(c, rows, strict=False)), ZERO)
    total = sum((dj * r[0] for dj, r in zip(d, tail, strict=True)), ZERO)
    total_size = sum((abs(dj) * r[1] for dj, r in zip(d, tail, strict=True)), ZERO)
    fall_size = sum((abs(dj) * r[3] for dj, r in zip(d, tail, strict=True)), ZERO)
    near = 64 * Fraction(u)
    if config.form == "abs_terms":
        bottom = 1 + sum((abs(dj * r[0]) for dj, r in zip(d, tail, strict=True)), ZERO)
        fall = sum((abs(dj) * sign(r[0]) * r[2] for dj, r in zip(d, tail, strict=True)), ZERO)
        by_d = [sign(dj) * abs(r[0]) for dj, r in zip(d, tail, strict=True)]
        kink = any(r[0] and abs(r[0]) <= near * r[1] for r in tail)
    else:
        outer = sign(total) if config.form in ("abs_sum", "pau_c") else 1
        offset = {"pau_c": Fraction(0.1), "free": ZERO}.get(config.form, Fraction(1))
        bottom = offset + outer * total
        kink = config.form in ("abs_sum", "pau_c") and total_size > 0 and abs(total) <= near * total_size
        if config.form == "clamped":
            kink = abs(bottom - Fraction(1e-8)) <= near * (1 + total_size)
            outer, bottom = int(bottom > Fraction(1e-8)), max(bottom, Fraction(1e-8))
        fall = outer * sum((dj * r[2] for dj, r in zip(d, tail, strict=True)), ZERO)
        by_d = [outer * r[0] for r in tail]
    kink = kink or abs(bottom) <= near * (1 + total_size)  # a pole
    if not bottom:
        return ExactGradient(ZERO, ZERO, [], [], ZERO, [], [], [], True)
    y, lost = top / bottom, 1 + (1 + total_size) / abs(bottom)
    y_size = top_size / abs(bottom)
    return ExactGradient(
        y,
        (rise - y * fall) / bottom,
        [r[0] / bottom for r in rows[: len(c)]],
        [-y * v / bottom for v in by_d],
        (rise_size + y_size * fall_size * lost) / abs(bottom) * lost,
        [r[1] / abs(bottom) * lost for r in rows[: len(c)]],
        [y_size * r[1] / abs(bottom) * lost * lost for r in tail],
        [r[1] for r in tail],
        kink,
    )
