"""Forward values of the torch operator against the oracle's bound, for every basis, form, degree, sharing and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config, ordinary_limit
from opau_onnx.nn import orthogonal_pade, traceable
from tests.cases import CASES, SAFE, SHARED_CASES, Array, Case, any_case, case, inputs, trusted

Record = Callable[[str, object], None]
ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def run(at: Case, x: Tensor, function: Callable[[Tensor, Tensor, Tensor, Config], Tensor] = orthogonal_pade) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    c, d = (torch.tensor(v, dtype=dtype, device=x.device) for v in (at.numerator, at.denominator))
    return function(x, c, d, at.config)


def branch_free(x: Tensor, c: Tensor, d: Tensor, config: Config) -> Tensor:
    """What torch.compile and transforms run."""
    return traceable.forward(config, x, c, d)


def as_inputs(at: Case, dtype: torch.dtype) -> Tensor:
    """Inputs of the case, repeated to its shape where there are groups."""
    wide = inputs(at.config, np.float64 if dtype == torch.float64 else np.float32)
    x = torch.from_numpy(wide).to(dtype)
    x = x[torch.isfinite(x)]
    if at.config.groups == 1:
        return x
    count = int(np.prod(at.shape[1:]))
    rows = -(-len(x) // count) * count
    shape = (-1, *at.shape[1:]) if at.config.axis else (at.shape[0], -1, *at.shape[1:])
    return torch.cat([x, x[: rows - len(x)]]).reshape(shape) if at.config.axis else _first_axis(x, at)


def _first_axis(x: Tensor, at: Case) -> Tensor:
    return x[: len(x) // at.shape[0] * at.shape[0]].reshape(at.shape[0], -1)


def errors(at: Case, x: Tensor, y: Tensor) -> Array:
    """Error over what is allowed: the bound in the arithmetic's precision, and half an ulp of a 16-bit output."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    u, wide = ROUNDOFF[compute], torch.finfo(compute)
    info = torch.finfo(x.dtype)
    want = oracle.evaluate(at.config, x.double().numpy(), at.numerator, at.denominator)
    allowed = want.bound * u + want.underflow * wide.smallest_normal * wide.eps + 2.0**-1074
    if x.dtype in (torch.float16, torch.bfloat16):
        allowed += np.abs(want.value) * ROUNDOFF[x.dtype]
    allowed += info.smallest_normal * info.eps  # one subnormal
    fits = (np.abs(want.value) < info.max * (1 - info.eps)) & trusted(at.config, want, u)
    if at.config.form == "clamped":
        fits &= np.abs(x.double().numpy()) <= ordinary_limit(at.config.top)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    error = np.abs(y.double().numpy()[fits] - want.value[fits])
    return np.asarray(np.nan_to_num(error, nan=np.inf) / allowed[fits])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("at", CASES, ids=str)
def test_values(at: Case, dtype: torch.dtype, record_property: Record) -> None:
    """Twice: where all inputs are ordinary, and together with those far out."""
    x = as_inputs(at, dtype)
    ordinary = x[x.abs() <= ordinary_limit(at.config.top)]
    worst = max(float(errors(at, v, run(at, v)).max(initial=0.0)) for v in (ordinary, x))
    record_property("error / bound", worst)
    assert worst <= 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("at", [c for c in CASES if c.config.degrees in ((0, 0), (0, 1), (5, 4), (16, 16))], ids=str)
def test_values_of_16_bits(at: Case, dtype: torch.dtype, record_property: Record) -> None:
    x = as_inputs(at, dtype)
    worst = float(errors(at, x, run(at, x)).max(initial=0.0))
    record_property("error / bound", worst)
    assert worst <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("at", SHARED_CASES, ids=str)
def test_values_of_groups(at: Case, dtype: torch.dtype, record_property: Record) -> None:
    x = as_inputs(at, dtype)
    worst = float(errors(at, x, run(at, x)).max(initial=0.0))
    record_property("error / bound", worst)
    assert worst <= 1.0


@pytest.mark.parametrize("at", [*CASES, *SHARED_CASES], ids=str)
def test_branch_free_formula(at: Case, record_property: Record) -> None:
    x = as_inputs(at, torch.float32)
    y = run(at, x, branch_free)
    worst = float(errors(at, x, y).max(initial=0.0))
    record_property("error / bound", worst)
    assert worst <= 1.0


SUBNORMAL = Case(Config("power", "abs_terms", (9, 14)), np.eye(1, 10, 9)[0] * 523, np.eye(1, 14, 11)[0] / 1024)
"""At 1.6e15 the weights r**(M - i) of its scaled evaluation are subnormal, and so is its value."""


@settings(max_examples=150, deadline=None, derandomize=True)
@example(SUBNORMAL, [1556189728997376.0])
@given(any_case(), st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20))
def test_any_case(at: Case, values: list[float]) -> None:
    x = torch.tensor(values)
    assert errors(at, x, run(at, x)).max(initial=0.0) <= 1.0


# -- the range policy


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("form", SAFE)
@pytest.mark.parametrize("basis", BASES)
def test_far_out_every_value_that_fits_is_finite_and_right(basis: str, form: str, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    x = torch.tensor([s * v for v in (1e30, info.max, info.max / 2, 65504.0) if v <= info.max for s in (1, -1)], dtype=dtype)
    for degrees in ((5, 4), (4, 4), (4, 5), (0, 16), (16, 16), (16, 15)):
        at = case(basis, form, degrees)
        y = run(at, x)
        assert errors(at, x, y).max(initial=0.0) <= 1.0
        value = oracle.evaluate(at.config, x.double().numpy(), at.numerator, at.denominator).value
        assert torch.isfinite(y)[torch.from_numpy(np.abs(value) < info.max * (1 - info.eps))].all()


@pytest.mark.parametrize("function", [orthogonal_pade, branch_free])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_infinities_give_the_limit(basis: str, form: str, function: Any) -> None:
    x = torch.tensor([np.inf, -np.inf])
    for degrees in ((5, 4), (4, 4), (4, 5), (0, 0), (3, 0), (0, 3), (16, 16)):
        at = case(basis, form, degrees)
        want = torch.from_numpy(oracle.evaluate(at.config, x.numpy(), at.numerator, at.denominator).value)
        got = run(at, x, function).double()
        if form == "clamped":  # promised only where Q is not clamped: P / 1e-8 is what it is there
            want, got = (v.where(want.abs() < 1e6, 0.0) for v in (want, got))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0.0, msg=f"{at}: {got} {want}")


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_nan_gives_nan_and_no_other(form: str, dtype: torch.dtype) -> None:
    for degrees in ((5, 4), (0, 0), (0, 4), (4, 0)):
        y = run(case("laguerre", form, degrees), torch.tensor([float("nan"), 0.25, float("nan")], dtype=dtype))
        assert torch.isnan(y).tolist() == [True, False, True]


@pytest.mark.parametrize("basis", BASES)
def test_zero_leading_coefficients(basis: str) -> None:
    """They must not drive P and Q to 0 / 0 far out."""
    whole_case = case(basis, "abs_terms", (6, 5))
    x = torch.tensor([1e30, -3e38, np.inf, -np.inf, 3.0, -1e10])
    for top, bottom in ((1, 1), (3, 3), (6, 5), (0, 5), (6, 0), (7, 5)):
        c, d = whole_case.numerator.copy(), whole_case.denominator.copy()
        c[len(c) - top :], d[len(d) - bottom :] = 0, 0
        at = Case(whole_case.config, c, d)
        y = run(at, x)
        want = oracle.evaluate(at.config, x.numpy(), c, d).value
        assert not torch.isnan(y).any()
        assert errors(at, x[torch.isfinite(x)], y[torch.isfinite(x)]).max(initial=0.0) <= 1.0
        np.testing.assert_allclose(y[2:4].double(), want[2:4], rtol=1e-6)


# -- shapes and memory


def test_empty_and_scalar() -> None:
    at, grouped = case("hermite_e", "abs_terms"), SHARED_CASES[0]
    assert run(at, torch.zeros(0)).shape == (0,)
    assert run(at, torch.zeros(2, 0, 3)).shape == (2, 0, 3)
    assert run(grouped, torch.zeros(0, 6, 4, 5)).shape == (0, 6, 4, 5)
    assert run(grouped, torch.zeros(2, 6, 0, 5)).shape == (2, 6, 0, 5)
    assert run(grouped, torch.zeros(2, 0, 4, 5)).shape == (2, 0, 4, 5)
    y = run(at, torch.tensor(0.75))
    assert y.shape == ()
    assert y == run(at, torch.tensor([0.75]))[0]


def strided() -> dict[str, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8, 10)
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3),
        "permuted": x.permute(3, 1, 0, 2),
        "every second": x[:, :, ::2, ::2],
        "expanded": x[:, :, :1].expand(4, 6, 8, 10),
        "expanded scalar": torch.tensor(0.5).expand(3, 6),
        "channels_last slice": x.contiguous(memory_format=torch.channels_last)[:, 2:5],
        "one channel": x[:, :1].contiguous(memory_format=torch.channels_last),
        "negative view": torch.randn(2, 6, 4, dtype=torch.complex64).conj().imag,
    }


@pytest.mark.parametrize("name", strided())
def test_memory_formats(name: str) -> None:
    x = strided()[name]
    dense = x.clone(memory_format=torch.contiguous_format)
    for axis in (0, 1, -1):
        for groups in (g for g in (1, 2, 3) if x.shape[axis] % g == 0):
            at = _grouped(groups, axis)
            torch.testing.assert_close(run(at, x), run(at, dense), rtol=0, atol=0)


def _grouped(groups: int, axis: int) -> Case:
    config = Config("hermite_e", "abs_terms", (3, 2), groups, axis)
    rng = np.random.default_rng(groups)
    rows = (groups,) if groups > 1 else ()
    return Case(config, rng.normal(size=(*rows, 4)), rng.normal(size=(*rows, 2)))


@pytest.mark.parametrize("groups", [1, 6])
def test_channels_last_stays(groups: int) -> None:
    x = torch.randn(4, 6, 8, 10).contiguous(memory_format=torch.channels_last)
    y = run(_grouped(groups, 1), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("groups", [1, 4, 128])
def test_neighbours_do_not_show(groups: int) -> None:
    """A large tensor gives bit for bit what its rows give one by one, also beside an element that is out of range."""
    at = _grouped(groups, 1)
    x = torch.randn(5, 128, 1027)
    y = run(at, x)
    rows = torch.cat([run(at, row[None]) for row in x])
    torch.testing.assert_close(y, rows, rtol=0, atol=0)
    for value in (1e30, np.inf, np.nan):
        x.view(-1)[131_089] = value
        changed = run(at, x).view(-1)
        others = torch.arange(x.numel()) != 131_089
        torch.testing.assert_close(changed[others], y.view(-1)[others], rtol=0, atol=0)
        assert torch.isnan(changed[131_089]) == np.isnan(value)


def test_float64_coefficients_lift_the_arithmetic() -> None:
    at = case("laguerre", "abs_sum", (16, 16))
    x = torch.linspace(-3, 3, 50)
    c, d = torch.from_numpy(at.numerator), torch.from_numpy(at.denominator)
    y = orthogonal_pade(x, c, d, at.config)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, orthogonal_pade(x.double(), c, d, at.config).float(), rtol=0, atol=0)


def test_input_is_left_alone() -> None:
    x = torch.randn(1000)
    before = x.clone()
    run(case("hermite", "pau_c"), x)
    assert torch.equal(x, before)
