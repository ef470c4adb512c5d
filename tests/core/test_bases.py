"""What is derived from the recurrences, against closed forms and against itself at exact points."""

from __future__ import annotations

from fractions import Fraction

import pytest

from opau_onnx.core.bases import polynomials
from opau_onnx.core.spec import BASES, MAX_DEGREE, Config
from tests.cases import monomials

POINTS = [Fraction(n, 7) for n in (-30, -9, -1, 0, 3, 14)]


@pytest.mark.parametrize("basis", BASES)
def test_monomials_are_those_of_the_closed_forms(basis: str) -> None:
    for n, row in enumerate(polynomials(basis).monomials):
        known = list(monomials(basis, n))
        assert list(row[: n + 1]) == known
        assert not any(row[n + 1 :])


@pytest.mark.parametrize("basis", BASES)
def test_monic_rows_and_closed_rows(basis: str) -> None:
    p = polynomials(basis)
    for x in POINTS:
        rows = [sum(c * x**i for i, c in enumerate(row)) / lead for row, lead in zip(p.monomials, p.leading, strict=True)]
        for n in range(1, MAX_DEGREE):
            assert rows[n + 1] == (x + p.shift[n]) * rows[n] - p.gamma[n] * rows[n - 1]
        if p.symmetric:
            assert rows[2] == x**2 - p.centre[2]
            assert rows[3] == x * (x**2 - p.centre[3])
            assert rows[4] == (x**2 - p.centre[4]) ** 2 - p.rest


def test_only_laguerre_is_not_symmetric() -> None:
    assert [name for name in BASES if not polynomials(name).symmetric] == ["laguerre"]
    assert Config("laguerre").steps()[0].b
