"""The definition's tables against closed forms, numpy.polynomial and scipy.special; its errors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.polynomial import chebyshev, hermite, hermite_e, laguerre, legendre, polynomial
from scipy import special  # noqa: TID253 (the tests need it at once)

from opau_onnx.core import spec
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, MAX_DEGREE, Config, derivative_table, ordinary_limit
from opau_onnx.errors import SpecError
from tests.cases import monomials

NUMPY: dict[str, tuple[Any, Any]] = {
    "power": (lambda c: c, polynomial.polyder),
    "chebyshev": (chebyshev.cheb2poly, chebyshev.chebder),
    "hermite_e": (hermite_e.herme2poly, hermite_e.hermeder),
    "hermite": (hermite.herm2poly, hermite.hermder),
    "laguerre": (laguerre.lag2poly, laguerre.lagder),
    "legendre": (legendre.leg2poly, legendre.legder),
}
SCIPY: dict[str, Any] = {
    "power": lambda n, x: x**n,
    "chebyshev": special.eval_chebyt,
    "chebyshev_u": special.eval_chebyu,
    "hermite_e": special.eval_hermitenorm,
    "hermite": special.eval_hermite,
    "laguerre": special.eval_laguerre,
    "legendre": special.eval_legendre,
}


def by_recurrence(basis: str, top: int) -> list[list[Fraction]]:
    """Coefficients by powers of x of f_0 .. f_top, from the definition's recurrence in rational arithmetic."""
    rows = [[Fraction(0)], [Fraction(1)]]  # f_{-1}, f_0
    for n in range(top):
        a, b, c = BASES[basis](n)
        times_x = [Fraction(0), *rows[-1]]
        pad = len(times_x)
        same, before = (r + [Fraction(0)] * (pad - len(r)) for r in rows[:-3:-1])
        rows.append([a * t + b * s - c * p for t, s, p in zip(times_x, same, before, strict=True)])
    return rows[1:]


@pytest.mark.parametrize("basis", BASES)
def test_recurrence_equals_closed_form(basis: str) -> None:
    for n, row in enumerate(by_recurrence(basis, MAX_DEGREE)):
        assert tuple(row) == monomials(basis, n)


@pytest.mark.parametrize("basis", NUMPY)
def test_recurrence_equals_numpy(basis: str) -> None:
    to_powers, _ = NUMPY[basis]
    for n, row in enumerate(by_recurrence(basis, MAX_DEGREE)):
        np.testing.assert_allclose([float(v) for v in row], to_powers([0] * n + [1]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("basis", BASES)
def test_recurrence_equals_scipy(basis: str) -> None:
    x = np.linspace(-3, 3, 25)
    for n, row in enumerate(by_recurrence(basis, MAX_DEGREE)):
        ours = [float(sum(v * Fraction(at) ** i for i, v in enumerate(row))) for at in x]
        size = np.abs(SCIPY[basis](n, x)).max()
        np.testing.assert_allclose(ours, SCIPY[basis](n, x), rtol=1e-11, atol=1e-13 * size)


@pytest.mark.parametrize("basis", BASES)
def test_derivative_table_is_exact(basis: str) -> None:
    """f_i' by powers of x equals the table's row, written by powers of x again."""
    for i, row in enumerate(derivative_table(basis, MAX_DEGREE)):
        want = [n * v for n, v in enumerate(monomials(basis, i))][1:]
        got = [sum(entry * monomials(basis, j)[n] for j, entry in enumerate(row) if n <= j) for n in range(MAX_DEGREE + 1)]
        assert got == want + [0] * (MAX_DEGREE + 1 - len(want))


@pytest.mark.parametrize("basis", NUMPY)
def test_derivative_table_equals_numpy(basis: str) -> None:
    _, derivative = NUMPY[basis]
    for i, row in enumerate(derivative_table(basis, MAX_DEGREE)):
        want = np.zeros(MAX_DEGREE + 1)
        if i:
            want[:i] = derivative([0] * i + [1])
        np.testing.assert_allclose([float(v) for v in row], want, rtol=1e-13)


@pytest.mark.parametrize("basis", BASES)
def test_derivative_table_of_lower_degree_is_its_corner(basis: str) -> None:
    whole = derivative_table(basis, MAX_DEGREE)
    for top in (0, 1, 5):
        assert derivative_table(basis, top) == tuple(row[: top + 1] for row in whole[: top + 1])


def test_tables_name_the_same_things() -> None:
    assert set(SCIPY) == set(BASES)
    assert set(NUMPY) == set(BASES) - {"chebyshev_u"}
    assert set(spec.PAU_FORMS.values()) <= set(FORMS)


@pytest.mark.parametrize("top", range(MAX_DEGREE + 1))
def test_nothing_overflows_up_to_the_ordinary_limit(top: int) -> None:
    limit = Fraction(ordinary_limit(top))
    assert limit.numerator & (limit.numerator - 1) == 0, "a power of two"
    for basis in BASES:
        for x in (limit, -limit):
            value = sum(v * x**i for i, v in enumerate(monomials(basis, top)))
            assert abs(value) <= 2**96


CONFIG_ERRORS = {
    "basis": ({"basis": "fourier"}, r"unknown basis 'fourier'; expected one of power, chebyshev, .*legendre"),
    "form": ({"form": "safe"}, r"unknown denominator form 'safe'; expected one of abs_terms, abs_sum, .*free"),
    "degree too high": ({"degrees": (17, 4)}, r"degrees is \(17, 4\); expected two whole numbers \(k, l\) from 0 to 16"),
    "degree negative": ({"degrees": (5, -1)}, r"degrees is \(5, -1\)"),
    "degree not whole": ({"degrees": (5, 4.0)}, r"degrees is \(5, 4\.0\)"),
    "degree a truth value": ({"degrees": (True, 4)}, r"degrees is \(True, 4\)"),
    "three degrees": ({"degrees": (5, 4, 3)}, r"degrees is \(5, 4, 3\)"),
    "degrees a number": ({"degrees": 5}, r"degrees is 5"),
    "no groups": ({"groups": 0}, r"groups is 0; expected a whole number of at least 1"),
    "groups not whole": ({"groups": 2.0}, r"groups is 2\.0"),
    "groups a truth value": ({"groups": True}, r"groups is True"),
    "axis": ({"axis": None}, r"axis is None; expected a whole number"),
}


@pytest.mark.parametrize(("arguments", "message"), CONFIG_ERRORS.values(), ids=CONFIG_ERRORS)
def test_config_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Config(**arguments)


def test_spec_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unknown basis"):
        Config("")


def test_config_of_lists_equals_config_of_tuples() -> None:
    assert Config(degrees=[3, 2]) == Config(degrees=(3, 2))  # type: ignore[arg-type]
    assert hash(Config(degrees=[3, 2])) == hash(Config(degrees=(3, 2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("form", "count"), [("abs_terms", 4), ("plain", 4), ("pau_c", 5), ("free", 5)])
def test_sizes(form: str, count: int) -> None:
    config = Config("power", form)
    assert (config.numerator_size, config.denominator_size, config.top) == (6, count, 5)
    assert Config("power", form, (2, 7)).top == 7


def test_text() -> None:
    assert str(Config()) == "hermite_e, abs_terms, degrees (5, 4)"
    assert str(Config("power", "plain", (3, 2), 8, -1)) == "power, plain, degrees (3, 2), 8 groups along axis -1"


COEFFICIENT_SHAPES = {
    "shared": (Config(), (6,), (4,), None),
    "rows for each group": (Config(groups=3), (3, 6), (3, 4), None),
    "one numerator": (Config(groups=3), (6,), (3, 4), None),
    "one denominator": (Config(groups=3), (3, 6), (4,), None),
    "no denominator": (Config(degrees=(5, 0)), (6,), (0,), None),
    "numerator": (Config(), (5,), (4,), r"the numerator has shape \(5,\); hermite_e, .* needs \(6,\)$"),
    "denominator": (Config(), (6,), (5,), r"the denominator has shape \(5,\); .* needs \(4,\)$"),
    "rows without groups": (Config(), (1, 6), (4,), r"the numerator has shape \(1, 6\)"),
    "rows": (Config(groups=3), (6,), (2, 4), r"denominator has shape \(2, 4\); .*3 groups.* needs \(4,\) or \(3, 4\)"),
    "scalar": (Config(degrees=(0, 0)), (), (0,), r"numerator has shape \(\)"),
}


@pytest.mark.parametrize(("config", "numerator", "denominator", "message"), COEFFICIENT_SHAPES.values(), ids=COEFFICIENT_SHAPES)
def test_check_coefficients(config: Config, numerator: Any, denominator: Any, message: str | None) -> None:
    if message is None:
        config.check_coefficients(numerator, denominator)
        return
    with pytest.raises(SpecError, match=message):
        config.check_coefficients(numerator, denominator)


INPUT_SHAPES = {
    "shared: any shape": (Config(), (), 0),
    "first": (Config(groups=2, axis=0), (4, 3), 0),
    "from the end": (Config(groups=3, axis=-1), (4, 3), 1),
    "empty": (Config(groups=3, axis=1), (0, 6), 1),
    "no such axis": (Config(groups=2, axis=2), (4, 6), r"shape \(4, 6\), which has no axis 2 for 2 groups"),
    "no such axis from the end": (Config(groups=2, axis=-3), (4, 6), r"no axis -3"),
    "scalar": (Config(groups=2, axis=0), (), r"shape \(\), which has no axis 0"),
    "does not divide": (Config(groups=4, axis=-1), (4, 6), r"axis -1 .* has 6 channels, which 4 groups do not"),
}


@pytest.mark.parametrize(("config", "shape", "want"), INPUT_SHAPES.values(), ids=INPUT_SHAPES)
def test_check_input(config: Config, shape: tuple[int, ...], want: int | str) -> None:
    if isinstance(want, int):
        assert config.check_input(shape) == want
        return
    with pytest.raises(SpecError, match=want):
        config.check_input(shape)
