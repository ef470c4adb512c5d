"""Exact consequences of the recurrences of :mod:`opau_onnx.core.spec`: monic rows, closed forms, monomials.

Needs nothing but the standard library: the build of the compiled kernels imports it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from math import prod
from typing import NamedTuple

from opau_onnx.core.spec import BASES, MAX_DEGREE, Step


class Polynomials(NamedTuple):
    """A basis f_0 .. f_m in other terms; m is :data:`~opau_onnx.core.spec.MAX_DEGREE`.

    Attributes:
        leading: f_n = leading_n g_n with monic g_n.
        shift, gamma: g_{n+1} = (x + shift_n) g_n - gamma_n g_{n-1}.
        monomials: f_n = sum_i monomials[n][i] x**i, shape (m + 1, m + 1).
        centre, rest: for a symmetric basis g_2 = x**2 - centre_2, g_3 = x (x**2 - centre_3), g_4 = (x**2 - centre_4)**2 - rest.
    """

    leading: tuple[Fraction, ...]
    shift: tuple[Fraction, ...]
    gamma: tuple[Fraction, ...]
    monomials: tuple[tuple[Fraction, ...], ...]
    centre: tuple[Fraction, ...]
    rest: Fraction

    @property
    def symmetric(self) -> bool:
        """True where every f_n is even or odd."""
        return not any(self.shift)


@cache
def polynomials(basis: str) -> Polynomials:
    """The basis of this name."""
    steps = [BASES[basis](n) for n in range(MAX_DEGREE)]
    leading, shift, gamma = _monic(steps)
    centre, rest = _closed(gamma)
    return Polynomials(leading, shift, gamma, _monomials(steps), centre, rest)


@cache
def mean_squares(basis: str, count: int) -> tuple[Fraction, ...]:
    """E f_n(x)^2 of a standard normal x for n from 0 to count - 1."""
    # E x^(2m) = 1 * 3 * ... * (2m - 1); odd moments are 0.
    moments = [Fraction(prod(range(1, m, 2)) if m % 2 == 0 else 0) for m in range(2 * count)]
    return tuple(
        sum((a * b * moments[i + j] for i, a in enumerate(row) for j, b in enumerate(row) if a and b), Fraction(0))
        for row in polynomials(basis).monomials[:count]
    )


def _monic(steps: Sequence[Step]) -> tuple[tuple[Fraction, ...], ...]:
    leading, shift, gamma = [Fraction(1)], [], []
    for n, (a, b, c) in enumerate(steps):
        leading.append(leading[-1] * a)
        shift.append(b / a)
        gamma.append(c / (a * steps[n - 1][0]) if n else Fraction(0))
    return tuple(leading), tuple(shift), tuple(gamma)


def _closed(gamma: Sequence[Fraction]) -> tuple[tuple[Fraction, ...], Fraction]:
    """(centres, rest): g_4 = x**4 - (gamma_1 + gamma_2 + gamma_3) x**2 + gamma_1 gamma_3, its square completed."""
    half = (gamma[1] + gamma[2] + gamma[3]) / 2
    return (Fraction(0), Fraction(0), gamma[1], gamma[1] + gamma[2], half), half**2 - gamma[1] * gamma[3]


def _monomials(steps: Sequence[Step]) -> tuple[tuple[Fraction, ...], ...]:
    width = len(steps) + 1
    rows = [[Fraction(0)] * width, [Fraction(1)] + [Fraction(0)] * (width - 1)]  # f_{-1}, f_0
    for a, b, c in steps:
        times_x = [Fraction(0), *rows[-1][:-1]]
        rows.append([a * u + b * v - c * w for u, v, w in zip(times_x, rows[-1], rows[-2], strict=True)])
    return tuple(map(tuple, rows[1:]))
