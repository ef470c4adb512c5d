"""The oracle against exact arithmetic, against numpy.polynomial and scipy.special, and its bound against float32 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev, hermite, hermite_e, laguerre, legendre, polynomial
from scipy import special  # noqa: TID253 (the tests need it at once)

from opau_onnx.core import evaluation, oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.spec import BASES, Config, ordinary_limit
from opau_onnx.errors import SpecError
from tests.cases import CASES, SAFE, Array, Case, any_case, case, exact, inputs, trusted

U64, U32 = 2.0**-53, 2.0**-24
INF = float("inf")


def eval_chebyu(x: Array, c: Any) -> Array:
    return np.sum([v * special.eval_chebyu(n, x) for n, v in enumerate(c)], axis=0) if len(c) else np.zeros_like(x)


SERIES: dict[str, Callable[[Array, Any], Array]] = {
    "power": polynomial.polyval,
    "chebyshev": chebyshev.chebval,
    "chebyshev_u": eval_chebyu,
    "hermite_e": hermite_e.hermeval,
    "hermite": hermite.hermval,
    "laguerre": laguerre.lagval,
    "legendre": legendre.legval,
}


def by_numpy(at: Case, x: Array) -> Array:
    """The definition in the words of numpy.polynomial and scipy.special."""
    series = SERIES[at.config.basis]

    def term(j: int) -> Array:
        return series(x, [0.0] * j + [1.0])

    form, d = at.config.form, at.denominator
    first = 0 if form in ("pau_c", "free") else 1
    terms = [dj * term(j) for j, dj in enumerate(d, start=first)]
    total = np.sum(terms, axis=0) if terms else np.zeros_like(x)
    bottom = {
        "abs_terms": lambda: 1 + (np.sum(np.abs(terms), axis=0) if terms else 0 * x),
        "abs_sum": lambda: 1 + np.abs(total),
        "plain": lambda: 1 + total,
        "pau_c": lambda: 0.1 + np.abs(total),
        "clamped": lambda: np.maximum(1e-8, 1 + total),
        "free": lambda: total,
    }[form]()
    return np.asarray(series(x, at.numerator) / bottom)


@pytest.mark.parametrize("at", CASES, ids=str)
def test_value_equals_numpy(at: Case) -> None:
    x = np.linspace(-3, 3, 41)
    found = oracle.evaluate(at.config, x, at.numerator, at.denominator)
    steady = trusted(at.config, found, U64)
    assert steady.sum() > 35
    with np.errstate(divide="ignore", invalid="ignore"):
        want = by_numpy(at, x)
    slack = 10 * U64 * found.bound[steady]  # both sides err; numpy sums in other orders
    assert (np.abs(want[steady] - found.value[steady]) <= slack).all()


@pytest.mark.parametrize("at", CASES, ids=str)
def test_value_condition_and_bound_equal_exact_arithmetic(at: Case) -> None:
    x = np.array([0.0, 1e-30, -1e-30, 0.75, -2.5, 63.7, 3e5, -7e7, 1e30, -3.4e38, 1e300, -1e-300, 5e-324])
    found = oracle.evaluate(at.config, x, at.numerator, at.denominator)
    for i, element in enumerate(x):
        want = exact(at.config, element, at.numerator, at.denominator)
        if want.bottom == 0:
            continue
        value = want.top / want.bottom
        if abs(value) < Fraction(np.finfo(np.float64).max):
            assert abs(found.value[i] - value) <= found.bound[i] * U64 * 1.001 + 5e-324
        else:
            assert found.value[i] in (INF, -INF)
        if want.top and not want.clamped:
            condition = want.top_size / abs(want.top) + want.bottom_size / abs(want.bottom)
            if condition < 1e9:
                assert found.condition[i] == pytest.approx(float(condition), rel=1e-5)


def limit(at: Case, sign: int) -> float:
    """The limit at +-inf, from exact arithmetic: far out the value has settled or has left every bound."""
    far = exact(at.config, sign * Fraction(2) ** 200, at.numerator, at.denominator)
    value = far.top / far.bottom
    if abs(value) > 2**100:
        return INF if value > 0 else -INF
    return 0.0 if abs(value) < Fraction(1, 2**100) else float(value)


def with_zeros(at: Case, top: int, bottom: int) -> Case:
    """The case with its leading coefficients zero: ``top`` of the numerator, ``bottom`` of the denominator."""
    c, d = at.numerator.copy(), at.denominator.copy()
    c[len(c) - top :], d[len(d) - bottom :] = 0.0, 0.0
    return Case(at.config, c, d)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_limits_for_every_pair_of_degrees(basis: str, form: str) -> None:
    for k in (0, 1, 2, 5):
        for l in (0, 1, 4, 6):
            whole = case(basis, form, (k, l))
            for at in (whole, with_zeros(whole, min(k, 1), 0), with_zeros(whole, 0, min(l, 1)), with_zeros(whole, k, l)):
                found = oracle.evaluate(at.config, [INF, -INF], at.numerator, at.denominator).value
                np.testing.assert_allclose(found, [limit(at, 1), limit(at, -1)], rtol=1e-12, err_msg=str(at))


def test_limit_of_nothing() -> None:
    """All coefficients zero; the free denominator is zero then, and so the value is not a number."""
    for form in FORMS:
        config = Config("hermite_e", form)
        zero = np.zeros(config.numerator_size), np.zeros(config.denominator_size)
        found = oracle.evaluate(config, [0.0, 2.0, INF, -INF], *zero).value
        assert (found == 0).all()


def test_clamped_limit_where_the_denominator_is_clamped() -> None:
    config = Config("power", "clamped", (2, 1))
    found = oracle.evaluate(config, [INF, -INF, 1e20], [0.0, 0.0, 2.0], [-1.0]).value
    assert found.tolist() == [INF, INF, 2e48]


@pytest.mark.parametrize("form", FORMS)
def test_nan(form: str) -> None:
    for degrees in ((5, 4), (0, 0), (0, 3), (3, 0)):
        at = case("laguerre", form, degrees)
        assert np.isnan(oracle.evaluate(at.config, [np.nan], at.numerator, at.denominator).value).all()


def test_groups_are_rows_of_channels() -> None:
    config = Config("hermite", "abs_terms", (3, 2), groups=2, axis=1)
    rng = np.random.default_rng(1)
    c, d, x = rng.normal(size=(2, 4)), rng.normal(size=(2, 2)), rng.normal(size=(3, 6, 2))
    found = oracle.evaluate(config, x, c, d)
    one = Config("hermite", "abs_terms", (3, 2))
    for channel in range(6):
        want = oracle.evaluate(one, x[:, channel], c[channel // 3], d[channel // 3])
        for name in ("value", "condition", "bound"):
            np.testing.assert_array_equal(getattr(found, name)[:, channel], getattr(want, name))


def test_errors_of_shapes() -> None:
    with pytest.raises(SpecError, match=r"the numerator has shape \(3,\)"):
        oracle.evaluate(Config(), [1.0], [1.0, 2.0, 3.0], [1.0] * 4)
    with pytest.raises(SpecError, match="3 groups do not divide"):
        oracle.evaluate(Config(groups=3), np.ones((2, 4)), np.ones((3, 6)), np.ones((3, 4)))


def test_shapes() -> None:
    for shape in ((), (0,), (2, 0, 3), (2, 3)):
        found = oracle.evaluate(Config(), np.ones(shape), np.ones(6), np.ones(4))
        assert found.value.shape == found.condition.shape == found.bound.shape == shape


def in_float32(at: Case, x: Array, *, scaled: bool) -> Array:
    """The formula over numpy's float32."""
    ops, x = NumpyOps(), x.astype(np.float32)
    c, d = list(at.numerator.astype(np.float32)), at.denominator.astype(np.float32)
    d = list(np.abs(d) if at.config.denominator_form.mode.name == "terms" else d)
    with np.errstate(all="ignore"):
        if at.config.top == 0:
            rows = evaluation.constant_rows(ops, x)
        elif scaled:
            rows = evaluation.scaled_basis(ops, at.config, x, beyond(at))
        else:
            rows = evaluation.ordinary_basis(at.config, x)
        y = evaluation.rational(ops, at.config, rows, evaluation.Coefficients(c, d))
    assert y.dtype == np.float32
    return np.asarray(np.broadcast_to(y, x.shape).astype(np.float64))


def beyond(at: Case) -> list[np.float32]:
    first = at.config.denominator_form.first
    used = [i for i, v in enumerate(at.numerator) if v] + [i for i, v in enumerate(at.denominator, start=first) if v]
    return [np.float32(i > max(used, default=0)) for i in range(1, at.config.top + 1)]


def ratios(at: Case, x: Array, *, scaled: bool) -> Array:
    """Error of float32 arithmetic over the oracle's bound, where the value is far from poles and fits float32."""
    want = oracle.evaluate(at.config, x, at.numerator, at.denominator)
    got = in_float32(at, x, scaled=scaled)
    fits = (np.abs(want.value) < float(np.finfo(np.float32).max) / 2) & trusted(at.config, want, U32)
    if at.config.form == "clamped":  # beyond X0 it is promised only where Q is not clamped: see the definition
        fits &= np.abs(x) <= ordinary_limit(at.config.top)
    error = np.maximum(np.nan_to_num(np.abs(got[fits] - want.value[fits]), nan=INF) - 2.0**-148, 0.0)
    return np.asarray(error / np.maximum(want.bound * U32, 1e-300)[fits])


@pytest.mark.parametrize("at", CASES, ids=str)
def test_bound_bounds_float32(at: Case, record_property: Callable[[str, object], None]) -> None:
    x = inputs(at.config, np.float32, 400).astype(np.float64)
    ordinary = ratios(at, x[np.abs(x) <= ordinary_limit(at.config.top)], scaled=False)
    everywhere = ratios(at, x, scaled=True)
    assert len(ordinary) > 500 or not at.config.denominator_form.safe
    worst = float(max(ordinary.max(initial=0.0), everywhere.max(initial=0.0)))
    print(f"{at}: worst error / bound {ordinary.max(initial=0):.3f} ordinary, {everywhere.max(initial=0):.3f} scaled")
    record_property("error / bound", worst)
    assert worst <= 1.0
    if at.config.degrees[0] and at.config.form in SAFE:
        assert worst >= 0.01, "the bound is so loose that it says nothing"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(any_case(), st.floats(allow_nan=False, allow_infinity=False))
def test_oracle_is_right_for_any_case_and_float64(at: Case, x: float) -> None:
    found = oracle.evaluate(at.config, [x], at.numerator, at.denominator)
    want = exact(at.config, x, at.numerator, at.denominator)
    if want.bottom and trusted(at.config, found, U64)[0]:
        assert abs(found.value[0] - want.top / want.bottom) <= found.bound[0] * U64 * 1.001 + 5e-324


@settings(max_examples=150, deadline=None, derandomize=True)
@given(any_case(), st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20))
def test_bound_holds_for_any_case_and_float32(at: Case, x: list[float]) -> None:
    inputs = np.array(x)
    assert ratios(at, inputs, scaled=True).max(initial=0.0) <= 1.0
    assert ratios(at, inputs[np.abs(inputs) <= ordinary_limit(at.config.top)], scaled=False).max(initial=0.0) <= 1.0
