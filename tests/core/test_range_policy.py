"""The range policy at its ends, for every implementation against rational arithmetic: tiny coefficients, infinities."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from opau_onnx import native
from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, COEFFICIENT_FLOOR, Config
from opau_onnx.nn import traceable
from tests.cases import monomials
from tests.custom_ops.library import required_library
from tests.export import single

MAX = float(np.finfo(np.float32).max)
Function = Callable[[Config, Any, Any, Any], Any]


def kernel(config: Config, x: Any, c: Any, d: Any) -> Any:
    return native.Activation(config, c, d, "float32", library=required_library())(x)


def torch_operations(config: Config, x: Any, c: Any, d: Any) -> Any:
    return traceable.forward(config, *(torch.from_numpy(v) for v in (x, c, d))).numpy()


def function_body(config: Config, x: Any, c: Any, d: Any) -> Any:
    return single.runners(single.model(single.Case(config), [None]))["onnxruntime"](x, c, d)[0]


IMPLEMENTATIONS = {f.__name__: f for f in (kernel, torch_operations, function_body)}


def powers(basis: str, values: Any, first: int) -> list[Fraction]:
    """sum_i values_i f_{first + i} by powers of x."""
    out = [Fraction(0)] * (len(values) + first)
    for n, value in enumerate(values, start=first):
        for i, factor in enumerate(monomials(basis, n)):
            out[i] += Fraction(float(value)) * factor
    return out


def exact(config: Config, x: float, c: Any, d: Any) -> Fraction:
    """f(x) of abs_terms, abs_sum, plain or free, in rational arithmetic."""
    at, form = Fraction(x), config.denominator_form
    top = sum(v * at**i for i, v in enumerate(powers(config.basis, c, 0)))
    terms = [
        Fraction(float(v)) * sum(f * at**i for i, f in enumerate(monomials(config.basis, n)))
        for n, v in enumerate(d, start=form.first)
    ]
    total = sum(map(abs, terms)) if config.form == "abs_terms" else abs(sum(terms)) if config.form == "abs_sum" else sum(terms)
    return Fraction(top) / (Fraction(form.offset) + total)


def wrong(want: Fraction, got: float, allowed: float) -> bool:
    if abs(want) > Fraction(MAX):
        return not (abs(got) >= MAX * (1 - 2.0**-5) and (got > 0) == (want > 0))
    border = abs(want) > Fraction(MAX) * Fraction(31, 32) and np.isinf(got) and (got > 0) == (want > 0)
    return not border and not (np.isfinite(got) and abs(Fraction(float(got)) - want) <= Fraction(allowed))


SMALL = [
    ("hermite_e", (5, 4), 1e-30, 1e-30),
    ("laguerre", (16, 1), 1e-14, 1e-14),
    ("laguerre", (16, 1), 1e-30, 1e-30),
    ("laguerre", (1, 16), 1e-30, 1e-30),
    ("laguerre", (16, 16), 1e-30, 1.0),
    ("laguerre", (16, 16), 1.0, 1e-30),
    ("hermite", (16, 15), 1e-30, 1e-30),
    ("chebyshev", (5, 4), 1e-30, 1.0),
    ("power", (4, 5), 1e-30, 1e-30),
    ("legendre", (9, 9), 1e-30, 1e-30),
]


@pytest.mark.parametrize("form", ["abs_terms", "abs_sum"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small_coefficients(case: tuple[str, tuple[int, int], float, float], implementation: str, form: str) -> None:
    """P and Q beyond X0 are near the subnormal numbers; without a common factor they were lost, and the value with them."""
    basis, degrees, c_size, d_size = case
    config = Config(basis, form, degrees)
    rng = np.random.default_rng(3)
    c = (rng.choice([-1.0, 1.0], config.numerator_size) * rng.uniform(1, 2, config.numerator_size) * c_size).astype(np.float32)
    d = (rng.uniform(1, 2, config.denominator_size) * d_size).astype(np.float32)
    sizes = np.float32(np.logspace(-3, 38.4, 60))
    x = np.concatenate([sizes, -sizes, [config.limit, 13000.0, -2.9e38, MAX]]).astype(np.float32)
    with np.errstate(all="ignore"):
        y = IMPLEMENTATIONS[implementation](config, x, c, d)
    found = oracle.evaluate(config, x, c, d)
    allowed = np.minimum(found.bound * 2.0**-24 + (found.underflow + 1) * 2.0**-149, 2.0**1000)
    bad = [(v, float(exact(config, v, c, d)), got) for v, got, a in zip(x.tolist(), y.tolist(), allowed.tolist(), strict=True)
           if wrong(exact(config, v, c, d), got, a)]  # fmt: skip
    assert not bad, f"{len(bad)} wrong of {len(x)}: (x, value, result) {bad[:3]}"


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_what_is_allowed_stays_small(case: tuple[str, tuple[int, int], float, float]) -> None:
    """The oracle's bound counts what Q loses too; at the floor and above there is nothing to lose while the value fits."""
    basis, degrees, c_size, d_size = case
    config = Config(basis, "abs_terms", degrees)
    c, d = np.full(config.numerator_size, c_size), np.full(config.denominator_size, d_size)
    x = np.concatenate([np.logspace(-3, 38.4, 200), -np.logspace(-3, 38.4, 200)])
    found = oracle.evaluate(config, x, c, d)
    fits = (np.abs(found.value) < MAX / 32) & (np.abs(found.value) > 2.0**-120)
    assert np.all(found.underflow[fits] * 2.0**-149 <= 2.0**-20 * found.bound[fits])


def test_below_the_floor_the_oracle_says_so() -> None:
    """Where half of Q may be lost the bound is of the value's size, not thousands of digits below it."""
    config = Config("hermite_e", "abs_terms", (5, 4))
    c, d = np.full(6, COEFFICIENT_FLOOR * 2.0**-48), np.full(4, COEFFICIENT_FLOOR * 2.0**-48)
    found = oracle.evaluate(config, np.array([-3e38]), c, d)
    assert found.underflow[0] * 2.0**-149 > 0.01 * abs(found.value[0])


INFINITE = [(b, f, k) for b in BASES for f in ("plain", "free") for k in ((5, 4), (3, 1))]
INFINITE += [("hermite_e", f, k) for f in ("plain", "free", "abs_terms", "pau_c") for k in ((4, 5), (4, 4), (1, 0))]


def set_of(config: Config, seed: int) -> tuple[Any, Any]:
    """Coefficients of random signs, zeros among them, also leading ones."""
    rng = np.random.default_rng(seed)
    c, d = (rng.integers(-16, 17, n) / 8.0 for n in (config.numerator_size, config.denominator_size))
    if seed % 3 == 0 and len(d):
        d[rng.integers(0, len(d)) :] = 0.0
    if config.form == "free" and not d.any():
        d[0] = -0.5
    return c.astype(np.float32), d.astype(np.float32)


def limit(config: Config, sign: int, c: Any, d: Any) -> float:
    """The limit from the leading powers of P and Q in rational arithmetic."""
    form = config.denominator_form
    top, bottom = powers(config.basis, c, 0), powers(config.basis, d, form.first)
    bottom = bottom or [Fraction(0)]
    p = max((i for i, v in enumerate(top) if v), default=0)
    if form.mode.kinks == "rows":  # every term's own size: the highest one in use counts
        q = max((j for j, v in enumerate(d, start=form.first) if v), default=0)
        leading = abs(Fraction(float(d[q - form.first])) * monomials(config.basis, q)[q]) if q else Fraction(form.offset)
    else:
        q = max((i for i, v in enumerate(bottom) if v and i), default=0)
        leading = bottom[q] if q else bottom[0] + Fraction(form.offset) if form.mode.kinks is None else Fraction(0)
        if form.mode.kinks == "sum":
            leading = abs(bottom[q]) + (0 if q else Fraction(form.offset))
    ratio = top[p] * sign**p / (leading * (sign**q if form.mode.kinks is None else 1))
    return 0.0 if not ratio or p < q else float(ratio) if p == q else float("inf") * (1 if ratio > 0 else -1)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "oracle"])
@pytest.mark.parametrize("case", INFINITE, ids=str)
def test_infinities_give_the_limit_of_the_leading_terms(case: tuple[str, str, tuple[int, int]], implementation: str) -> None:
    """One rule for every form and implementation; Q's sign was lost where it is divided by a higher power of x than its own."""
    config = Config(*case)
    if implementation == "function_body":
        runner = single.runners(single.model(single.Case(config), [None]))["onnxruntime"]
    for seed in range(6):
        c, d = set_of(config, seed)
        x = np.array([np.inf, -np.inf, MAX, -MAX], dtype=np.float32)
        want = np.array([limit(config, sign, c, d) for sign in (1, -1)])
        with np.errstate(all="ignore"):
            if implementation == "oracle":
                y = oracle.evaluate(config, x, c, d).value
            elif implementation == "function_body":
                y = runner(x, c, d)[0]
            else:
                y = IMPLEMENTATIONS[implementation](config, x, c, d)
        np.testing.assert_allclose(y[:2], want, rtol=1e-5, err_msg=f"{config}, set {seed}: {c}, {d}")
        far = np.abs(want) == np.inf  # and where a finite x is beyond what fits
        if np.abs(c).max() and far.all() and sum(np.array(config.degrees) * [1, -1]) > 1:
            assert (np.sign(y[2:]) == np.sign(want)).all(), f"{config}, set {seed}"


@pytest.mark.parametrize("form", FORMS)
def test_a_common_factor_changes_no_ordinary_bit(form: str) -> None:
    """Sets of ordinary size have no factor, so that they give the bits they always gave; smaller ones are exact multiples."""
    config = Config("hermite_e", form, (5, 4))
    rng = np.random.default_rng(0)
    c, d = (rng.uniform(0.1, 1, n).astype(np.float32) for n in (6, config.denominator_size))
    x = np.float32(rng.standard_normal(1000) * 4)
    assert np.array_equal(kernel(config, x, c * np.float32(2.0**-100), d), kernel(config, x, c, d) * np.float32(2.0**-100))
