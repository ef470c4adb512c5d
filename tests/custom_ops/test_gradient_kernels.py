"""The training kernels of the C interface against PyTorch's float64 gradients, and their bits between instruction sets."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from opau_onnx import native
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.native import training
from opau_onnx.nn.ops import orthogonal_pade
from tests.custom_ops.library import required_library

SHAPES = [((3, 1000), 1), ((5000,), 1), ((7, 6, 11), 3), ((9, 4, 80), 2), ((37, 8), 8), ((2, 64, 2, 2), 64), ((40, 24), 4)]


class Function:
    """The library's function on numpy arrays."""

    def __init__(self, config: Config, instruction_set: str | None = None) -> None:
        self.function = training.Function(config, instruction_set, required_library())
        self.config = config

    def forward(self, x: Any, c: Any, d: Any, dtype: str) -> Any:
        given, y = native.Given(self.config, c, d, dtype, None), np.empty_like(x)
        addresses = x.ctypes.data, y.ctypes.data
        self.function.forward(native.DTYPES[dtype], *given.arguments[6:10], *addresses, native.extent(self.config, x.shape))
        return y

    def backward(self, x: Any, g: Any, c: Any, d: Any, dtype: str, *, sums: bool = True) -> tuple[Any, Any, Any]:
        given, dx = native.Given(self.config, c, d, dtype, None), np.empty_like(x)
        dc, dd = (np.empty_like(v) for v in given.arrays[:2])
        addresses = [v.ctypes.data for v in (x, g, dx)] + [v.ctypes.data if sums else None for v in (dc, dd)]
        self.function.backward(native.DTYPES[dtype], *given.arguments[6:10], *addresses, native.extent(self.config, x.shape))
        return dx, dc, dd


def case(
    basis: str, form: str, degrees: tuple[int, int], shape: tuple[int, ...], groups: int
) -> tuple[Config, Any, Any, Any, Any]:
    config = Config(basis, form, degrees, groups, 1 if groups > 1 else 0)
    rng = np.random.default_rng(0)
    rows = (groups,) if groups > 1 else ()
    c = rng.normal(size=(*rows, config.numerator_size)).astype(np.float32)
    d = (0.1 * rng.normal(size=(*rows, config.denominator_size))).astype(np.float32)
    if not config.denominator_form.safe and config.denominator_form.first == 0:
        d[..., 0] = 2.0
    x, g = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    return config, c, d, x, g


def expected(config: Config, c: Any, d: Any, x: Any, g: Any) -> list[Any]:
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, c, d)]
    y = orthogonal_pade(*tensors, config)
    return [v.numpy() for v in torch.autograd.grad(y, tensors, torch.tensor(g, dtype=torch.float64), allow_unused=True)]


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.safe])
@pytest.mark.parametrize("degrees", [(5, 4), (2, 1), (9, 8)])
@pytest.mark.parametrize("basis", BASES)
def test_gradients(basis: str, form: str, degrees: tuple[int, int], shape: tuple[int, ...], groups: int) -> None:
    config, c, d, x, g = case(basis, form, degrees, shape, groups)
    wide = Function(config).backward(x.astype(np.float64), g.astype(np.float64), c, d, "float64")
    for found, want in zip(wide, expected(config, c, d, x, g), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-10 * max(1.0, float(np.abs(want).max())))
    single = Function(config).backward(x, g, c, d, "float32")
    for found, want in zip(single, wide, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_on_every_instruction_set(dtype: str, shape: tuple[int, ...], groups: int) -> None:
    for degrees in ((5, 4), (9, 8)):
        config, c, d, x, g = case("hermite_e", "abs_terms", degrees, shape, groups)
        x.flat[::5] *= 1e30
        x.flat[1::7] = 0.0
        x, g = x.astype(dtype), g.astype(dtype)
        found = [Function(config, name).backward(x, g, c, d, dtype) for name in native.instruction_sets()]
        for other in found[1:]:
            for one, two in zip(found[0], other, strict=True):
                assert one.tobytes() == two.tobytes()
        alone = Function(config).backward(x, g, c, d, dtype, sums=False)[0]
        assert alone.tobytes() == found[0][0].tobytes()


@pytest.mark.parametrize("degrees", [(5, 4), (4, 4), (9, 8), (16, 16)])
@pytest.mark.parametrize("basis", BASES)
def test_beyond_the_limit(basis: str, degrees: tuple[int, int]) -> None:
    """Against PyTorch's float64 path, at inputs where that is exact enough."""
    config, c, d, _, _ = case(basis, "abs_terms", degrees, (1,), 1)
    x = np.array([config.limit * 2.0, -config.limit * 3.0, config.limit * 40.0])
    g = np.ones(3)
    found = Function(config).backward(x, g, c, d, "float64")
    for value, want in zip(found, expected(config, c, d, x, g), strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if not form.safe])
@pytest.mark.parametrize("degrees", [(5, 4), (9, 8)])
def test_forms_with_poles_away_from_them(form: str, degrees: tuple[int, int]) -> None:
    config, c, d, x, g = case("hermite_e", form, degrees, (3, 8, 50), 8)
    d[..., 1:] *= 1e-3
    x = np.clip(x, -1, 1)
    found = Function(config).backward(x.astype(np.float64), g.astype(np.float64), c, d, "float64")
    for one, want in zip(found, expected(config, c, d, x, g), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-9, atol=1e-10 * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize("shape", [(3, 8, 50), (20, 8)])
def test_one_numerator_for_all_groups(shape: tuple[int, ...]) -> None:
    config, c, d, x, g = case("hermite_e", "abs_terms", (5, 4), shape, 8)
    found = Function(config).backward(x.astype(np.float64), g.astype(np.float64), c[0], d, "float64")
    for one, want in zip(found, expected(config, c[0], d, x, g), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-9, atol=1e-10 * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
@pytest.mark.parametrize(("shape", "groups"), [((5000,), 1), ((20, 8), 8)])
def test_half_precision(dtype: str, unit: float, shape: tuple[int, ...], groups: int) -> None:
    kind = np.dtype("float16") if dtype == "float16" else np.dtype(ml_dtypes.bfloat16)
    config, c, d, x, g = case("hermite_e", "abs_terms", (5, 4), shape, groups)
    x, g = x.astype(kind), g.astype(kind)
    dx, dc, dd = Function(config).backward(x, g, c, d, dtype)
    want_x, want_c, want_d = expected(config, c, d, x.astype(np.float64), g.astype(np.float64))
    np.testing.assert_allclose(dx.astype(np.float64), want_x, rtol=1.1 * unit, atol=1e-4)
    np.testing.assert_allclose(dc, want_c, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dd, want_d, rtol=1e-3, atol=1e-3)


def test_diverged_coefficients_give_nan() -> None:
    config, c, d, x, g = case("hermite_e", "abs_terms", (5, 4), (100,), 1)
    c[2] = np.nan
    function = Function(config)
    assert np.isnan(function.forward(x, c, d, "float32")).all()
    assert all(np.isnan(v).all() for v in function.backward(x, g, c, d, "float32")[:1])


def test_the_forward_pass_has_the_inference_kernels_bits() -> None:
    for shape, groups in SHAPES:
        config, c, d, x, _ = case("hermite_e", "abs_terms", (5, 4), shape, groups)
        y = Function(config).forward(x, c, d, "float32")
        assert y.tobytes() == native.Activation(config, c, d)(x).tobytes()


def test_sums_of_many_elements_keep_their_accuracy() -> None:
    """float32's sums over 16 Mi elements are within 1e-5 of those in float64 (measured: 3.2e-6)."""
    config, c, d, _, _ = case("hermite_e", "abs_terms", (5, 4), (1,), 1)
    rng = np.random.default_rng(3)
    x, g = (rng.standard_normal(1 << 24, dtype=np.float32) for _ in range(2))
    g = np.abs(g)
    found = Function(config).backward(x, g, c, d, "float32")[1:]
    want = Function(config).backward(x.astype(np.float64), g.astype(np.float64), c, d, "float64")[1:]
    for one, right in zip(found, want, strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-5)


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 63, 64, 65, 127, 130])
def test_nothing_beside_the_tensors_is_touched(count: int, offset: int) -> None:
    """Pages that cannot be read lie right before or behind the tensors, at every alignment of an element."""
    config, c, d, _, _ = case("hermite_e", "abs_terms", (5, 4), (1,), 1)
    rng = np.random.default_rng(count)
    for last in (False, True):
        pages = [GuardedPage(count, offset, last=last) for _ in range(3)]
        x, g, dx = (page.values for page in pages)
        x[:], g[:] = rng.standard_normal((2, count)).astype(np.float32)
        given = native.Given(config, c, d, "float32", None)
        function = training.Function(config, library=required_library())
        dc, dd = (np.empty_like(v) for v in given.arrays[:2])
        addresses = [v.ctypes.data for v in (x, g, dx, dc, dd)]
        function.backward(native.DTYPES["float32"], *given.arguments[6:10], *addresses, (1, 1, count))
        want = Function(config).backward(x.copy(), g.copy(), c, d, "float32")
        for one, right in zip((dx, dc, dd), want, strict=True):
            np.testing.assert_array_equal(one, right)
        function.forward(native.DTYPES["float32"], *given.arguments[6:10], x.ctypes.data, dx.ctypes.data, (1, 1, count))


class GuardedPage:
    """float32 values at the end, or at the start, of readable memory."""

    def __init__(self, count: int, offset: int, *, last: bool) -> None:
        page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.memory = mmap.mmap(-1, 3 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for guard in (start, start + 2 * page):
            assert libc.mprotect(guard, page, 0) == 0
        first = 2 * page - 4 * count if last else page
        first += 0 if last else 4 * offset
        self.values = np.frombuffer(self.memory, np.float32, count, first)
