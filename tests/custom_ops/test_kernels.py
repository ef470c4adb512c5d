"""The CPU kernels against the oracle, and all instruction sets against each other, through the plain C interface."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx import native
from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.errors import SpecError
from opau_onnx.native import training
from tests.cases import CASES, SHARED_CASES, Case, case, inputs, trusted
from tests.custom_ops.library import required_library

NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
LARGEST = {name: float(ml_dtypes.finfo(dtype).max) for name, dtype in NUMPY.items()}
KINDS = (case("power", "abs_terms"), case("hermite_e", "abs_terms"), case("legendre", "abs_sum"), case("laguerre", "plain"))
"""One of each kind of kernel."""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return required_library()


def sets(library: ctypes.CDLL) -> list[str]:
    return native.instruction_sets(library)


def judged(c: Case, x: Any, y: Any, dtype: str) -> float:
    """Largest error over what the oracle's bound allows, where it can be relied on; wrong infinities and NaN count as inf."""
    found = oracle.evaluate(c.config, x.astype(np.float64), c.numerator, c.denominator)
    compute = "float64" if dtype == "float64" else "float32"
    u = ROUNDOFF[compute]
    fits = np.abs(found.value) < 0.99 * LARGEST[dtype]
    good = trusted(c.config, found, u) & np.isfinite(found.value) & fits
    if c.config.form == "clamped":  # beyond X0 its bound is not part of the promise
        good &= np.abs(x.astype(np.float64)) <= 65536.0 if c.config.top == 5 else np.abs(x.astype(np.float64)) <= 32.0
    allowed = found.bound * u + found.underflow * TINY[compute] + np.abs(found.value) * ROUNDOFF[dtype] + TINY[dtype]
    with np.errstate(invalid="ignore"):
        ratio = np.where(good, np.abs(y.astype(np.float64) - found.value) / allowed, 0.0)
    return float(np.where(np.isnan(ratio), np.inf, ratio).max(initial=0.0))


def finite_inputs(config: Config, dtype: str) -> Any:
    if dtype != "bfloat16":
        return inputs(config, NUMPY[dtype])
    x = inputs(config).astype(ml_dtypes.bfloat16)
    return x[np.isfinite(x)]


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_every_configuration_is_within_the_bound(library: Any, basis: str, form: str, dtype: str, record_property: Any) -> None:
    worst = 0.0
    for c in CASES:
        if (c.config.basis, c.config.form) == (basis, form):
            x = finite_inputs(c.config, dtype)
            y = native.Activation(c.config, c.numerator, c.denominator, dtype, library=library)(x)
            ratio = judged(c, x, y, dtype)
            assert ratio <= 1, f"{c}: {ratio} times the bound"
            worst = max(worst, ratio)
    record_property("error / bound", worst)


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("c", SHARED_CASES, ids=str)
def test_every_sharing_is_within_the_bound(library: Any, c: Case, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(c.shape) * 4).astype(NUMPY[dtype])
    x.reshape(-1)[:3] = [1e4, -1e4, 0]
    y = native.Activation(c.config, c.numerator, c.denominator, dtype, library=library)(x)
    assert judged(c, x, y, dtype) <= 1


@pytest.mark.parametrize("channels", [1, 3, 8, 31, 257])
@pytest.mark.parametrize("c", KINDS, ids=str)
def test_channels_side_by_side_equal_one_channel_at_a_time(library: Any, c: Case, channels: int) -> None:
    rng = np.random.default_rng(channels)
    config = Config(c.config.basis, c.config.form, c.config.degrees, max(channels, 1), -1)
    own = [np.multiply(v, rng.uniform(0.5, 2, (channels, 1))).reshape(v.shape if channels == 1 else (channels, -1))
           for v in (c.numerator, c.denominator)]  # fmt: skip
    x = (rng.standard_normal((5, channels)) * 10.0 ** rng.integers(-3, 9, (5, channels))).astype(np.float32)
    y = native.Activation(config, *own, library=library)(x)
    for n in range(channels):
        row = [np.atleast_2d(v)[n] for v in own]
        alone = native.Activation(c.config, *row, library=library)(np.ascontiguousarray(x[:, n]))
        assert np.array_equal(alone.view(np.uint32), np.ascontiguousarray(y[:, n]).view(np.uint32))


def patterns(dtype: str, count: int = 1 << 18) -> Any:
    """Every bit pattern of the 16-bit types, random ones of the wider; NaN and infinities among them."""
    if dtype in ("float16", "bfloat16"):
        return np.arange(1 << 16, dtype=np.uint16).view(NUMPY[dtype])
    kind = np.uint32 if dtype == "float32" else np.uint64
    rng = np.random.default_rng(7)
    bits = rng.integers(0, np.iinfo(kind).max, count, dtype=kind, endpoint=True)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65536, 65537, 1e-45, 3e38], NUMPY[dtype])
    return np.concatenate([bits.view(NUMPY[dtype]), special, rng.standard_normal(count).astype(NUMPY[dtype]) * 3])


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("form", ["abs_terms", "abs_sum", "clamped"])
@pytest.mark.parametrize("basis", ["power", "hermite", "chebyshev", "laguerre"])
def test_all_instruction_sets_give_the_same_bits(library: Any, basis: str, form: str, dtype: str) -> None:
    x = patterns(dtype)
    c = case(basis, form)
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[x.itemsize]
    results = {
        name: native.Activation(c.config, c.numerator, c.denominator, dtype, instruction_set=name, library=library)(x)
        for name in sets(library)
    }
    expected = results["scalar"]
    for name, y in results.items():
        nan = np.isnan(y) & np.isnan(expected)
        assert np.array_equal(y.view(bits)[~nan], expected.view(bits)[~nan]), name


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("basis", BASES)
def test_nan_stays_and_infinity_gives_the_limit(library: Any, basis: str, dtype: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf], NUMPY[dtype])
    for form in ("abs_terms", "abs_sum", "pau_c"):
        for degrees in ((5, 4), (4, 5), (4, 4), (0, 0), (16, 16)):
            c = case(basis, form, degrees)
            y = native.Activation(c.config, c.numerator, c.denominator, dtype, library=library)(x).astype(np.float64)
            limit = oracle.evaluate(c.config, x[1:].astype(np.float64), c.numerator, c.denominator).value
            assert np.isnan(y[0])
            np.testing.assert_allclose(y[1:], limit, rtol=4 * ROUNDOFF[dtype])


SIZES = (*range(70), 127, 128, 129, 1000, 4095, 65537, 1_000_001)


@pytest.mark.parametrize("name", ["scalar", "scalar_fma", "avx2", "avx512", "neon"])
@pytest.mark.parametrize("dtype", NUMPY)
def test_odd_sizes_and_every_alignment(library: Any, dtype: str, name: str) -> None:
    """Each element is written, nothing else is; streaming stores and working in place change nothing."""
    if name not in sets(library):
        pytest.skip(f"{name} is not compiled in, or this machine cannot run it")
    c = KINDS[1]
    activation = native.Activation(c.config, c.numerator, c.denominator, dtype, instruction_set=name, library=library)
    itemsize = np.dtype(NUMPY[dtype]).itemsize
    x = (np.random.default_rng(3).standard_normal(max(SIZES)) * 4).astype(NUMPY[dtype])
    expected = activation(x)
    for turn, n in enumerate(SIZES):
        for at in range(0, 64, itemsize) if n < 40 else ((turn * itemsize) % 64, 0):
            source = aligned(n * itemsize + 128)
            source[at : at + n * itemsize] = x[:n].view(np.uint8)
            for stream in (False, True):
                to = (at * 3) % 64 // itemsize * itemsize
                for fill in (0x5A, 0xA5):
                    y = aligned(n * itemsize + 128, fill)
                    activation.run(source.ctypes.data + at, y.ctypes.data + to, (1, 1, n), (0, n), stream=stream)
                    assert np.array_equal(y[to : to + n * itemsize], expected[:n].view(np.uint8))
                    assert (y[:to] == fill).all()
                    assert (y[to + n * itemsize :] == fill).all()
            activation.run(source.ctypes.data + at, source.ctypes.data + at, (1, 1, n), (0, n))
            assert np.array_equal(source[at : at + n * itemsize], expected[:n].view(np.uint8))


def aligned(size: int, fill: int = 0) -> Any:
    """Bytes that start at a multiple of 64."""
    raw = np.full(size + 64, fill, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size]


@pytest.mark.parametrize("c", [SHARED_CASES[0], SHARED_CASES[1], SHARED_CASES[2]], ids=str)
def test_any_span_of_a_grouped_tensor(library: Any, c: Case) -> None:
    """As onnxruntime's threads split it."""
    activation = native.Activation(c.config, c.numerator, c.denominator, library=library)
    x = np.random.default_rng(5).standard_normal(c.shape).astype(np.float32)
    expected = activation(x)
    for cut in (0, 1, 7, 8, 100, x.size):
        y = np.zeros_like(x)
        for span in ((0, cut), (cut, x.size)):
            activation.run(x.ctypes.data, y.ctypes.data, native.extent(activation.config, x.shape), span)
        assert np.array_equal(y, expected)


AFFINES = [(1, (3, 50)), (6, (2, 6, 35)), (6, (40, 6)), (600, (5, 600)), (6, (1, 6, 3000))]


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own rows"])
@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("basis", ["power", "hermite_e", "legendre", "laguerre"])
def test_an_affine_before_the_activation(library: Any, basis: str, dtype: str, own: bool) -> None:
    """Powers of two and zero round nothing: bit for bit the activation of what numpy makes of x. Others: the oracle decides."""
    rng = np.random.default_rng(7)
    exact = np.float64 if dtype == "float64" else np.float32
    for groups, shape in AFFINES:
        config = Config(basis, groups=groups)
        rows = (groups,) if own and groups > 1 else ()
        c, d = rng.uniform(-1, 1, (*rows, 6)), rng.uniform(-1, 1, (*rows, 4))
        x = np.resize(patterns(dtype)[::7], shape).astype(NUMPY[dtype])
        with np.errstate(all="ignore"):
            x = np.where(np.abs(x.astype(exact)) < 2.0**12, x, 1).astype(NUMPY[dtype])  # the product fits every dtype
        along = (1, -1) + (1,) * (len(shape) - 2)
        scale = 2.0 ** rng.integers(0, 3, groups)
        shift = np.zeros(groups)
        moved = (x.astype(exact) * scale.astype(exact).reshape(along if groups > 1 else -1)).astype(NUMPY[dtype])
        plain = native.Activation(config, c, d, dtype, library=library)
        for name in sets(library):
            y = native.Activation(config, c, d, dtype, affine=(scale, shift), instruction_set=name, library=library)(x)
            expected = plain(moved)
            assert np.array_equal(y, expected, equal_nan=True), (name, groups, shape)
        x = (rng.standard_normal(shape) * 3).astype(NUMPY[dtype])
        scale, shift = rng.uniform(0.5, 2, groups).astype(exact), rng.uniform(-1, 1, groups).astype(exact)
        results = [
            native.Activation(config, c, d, dtype, affine=(scale, shift), instruction_set=name, library=library)(x)
            for name in sets(library)
        ]
        assert all(np.array_equal(results[0], other, equal_nan=True) for other in results[1:])
        wide = x.astype(np.float64) * scale.astype(np.float64).reshape(along if groups > 1 else -1)
        at = wide + shift.astype(np.float64).reshape(along if groups > 1 else -1)
        known = oracle.evaluate(config, at, c.astype(exact), d.astype(exact))
        usual = known.condition < 10
        error = np.abs(results[0].astype(np.float64) - known.value)[usual]
        assert usual.mean() > 0.4
        assert (error <= 100 * ROUNDOFF[dtype] * (1 + np.abs(known.value[usual]))).all()


def test_a_wrong_affine(library: Any) -> None:
    config = Config(groups=3)
    with pytest.raises(SpecError, match=r"expected \(3,\) both"):
        native.Activation(config, np.ones(6), np.ones(4), affine=(np.ones(3), np.ones(2)), library=library)
    with pytest.raises(SpecError, match="the shift's coefficient 1 is NaN"):
        native.Activation(config, np.ones(6), np.ones(4), affine=(np.ones(3), [0, np.nan, 0]), library=library)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversions_round_to_nearest_even(library: Any, dtype: str) -> None:
    """y = x / 3, where numpy's own arithmetic and conversion give the same for every input."""
    x = patterns(dtype)
    third = np.float32(1) / np.float32(3)
    with np.errstate(invalid="ignore"):
        expected = (x.astype(np.float32) * third).astype(NUMPY[dtype])
    for name in sets(library):
        y = native.Activation(Config("power", degrees=(1, 0)), [0, third], [], dtype, instruction_set=name, library=library)(x)
        nan = np.isnan(x.astype(np.float32))
        assert np.isnan(y[nan].astype(np.float32)).all()
        # The sum starts from +0: a result of -0 comes out as +0.
        assert np.array_equal(y[~nan], expected[~nan])


def test_accuracy_of_the_shipped_activations(library: Any, record_property: Any) -> None:
    """In units of the last place of the float32 result, where the condition number is below 10."""
    from opau_onnx.io.source import load
    from opau_onnx.nn import OrthogonalPade
    from tests.test_shipped import MODELS

    x = np.concatenate([np.linspace(-12, 12, 200_001), np.geomspace(1e-30, 1e35, 100_001), -np.geomspace(1e-30, 1e35, 100_001)])
    x = x.astype(np.float32)
    worst = 0.0
    for path in sorted(MODELS.glob("lenet_hp*.pt")):
        for module in load(path).model.modules():
            if isinstance(module, OrthogonalPade):
                c, d = (v.detach().numpy() for v in (module.numerator, module.denominator))
                found = oracle.evaluate(module.config, x.astype(np.float64), c, d)
                y = native.Activation(module.config, c, d, library=library)(x)
                ulp = np.spacing(np.abs(found.value).astype(np.float32)).astype(np.float64)
                worst = max(worst, float((np.abs(y - found.value) / ulp)[found.condition < 10].max()))
    record_property("error / bound", worst)
    assert 1 < worst < 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": [1, np.nan, 0, 0, 0, 0]}, "numerator's coefficient 1 is NaN"),
        ({"d": [1, 0, np.inf, 0]}, "denominator's coefficient 2 is infinite"),
    ],
)
def test_bad_coefficients_are_refused(library: Any, change: dict[str, Any], message: str) -> None:
    values = {"c": [1.0] * 6, "d": [1.0] * 4} | change
    with pytest.raises(SpecError, match=message):
        native.Activation(Config(), values["c"], values["d"], library=library)


def test_the_library_names_what_it_does_not_know(library: Any) -> None:
    out = ctypes.c_void_p()
    c = np.zeros(6, np.float32)
    create = library.opau_create
    p, none = c.ctypes.data, (None, None)
    assert b"only one is given" in create(b"power", b"plain", 5, 4, 1, 1, p, 1, p, 1, p, None, -1, ctypes.byref(out))
    assert b"unknown basis 'bessel'" in create(b"bessel", b"abs_terms", 5, 4, 1, 1, p, 1, p, 1, *none, -1, ctypes.byref(out))
    assert b"unknown denominator form" in create(b"power", b"safe", 5, 4, 1, 1, p, 1, p, 1, *none, -1, ctypes.byref(out))
    assert b"degrees is (17, 4)" in create(b"power", b"plain", 17, 4, 1, 1, p, 1, p, 1, *none, -1, ctypes.byref(out))
    assert b"groups is 0" in create(b"power", b"plain", 5, 4, 0, 1, p, 1, p, 1, *none, -1, ctypes.byref(out))
    assert b"dtype is 7" in create(b"power", b"plain", 5, 4, 1, 7, p, 1, p, 1, *none, -1, ctypes.byref(out))
    assert b"2 rows; expected 1" in create(b"power", b"plain", 5, 4, 1, 1, p, 2, p, 1, *none, -1, ctypes.byref(out))
    assert b"instruction set 99 does" in create(b"power", b"plain", 5, 4, 1, 1, p, 1, p, 1, *none, 99, ctypes.byref(out))
    assert out.value is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("groups", [3, 8, 65])
def test_runs_of_every_length(library: Any, groups: int, dtype: str) -> None:
    """Bit for bit what each row's own activation gives, in place too, with some inputs far out; more lengths than are kept."""
    rng = np.random.default_rng(groups)
    exact = np.float64 if dtype == "float64" else np.float32
    c, d = rng.normal(size=(groups, 6)).astype(exact), rng.normal(size=(groups, 4)).astype(exact)
    config = Config("hermite_e", "abs_terms", (5, 4), groups, 1)
    alone = [native.Activation(Config(), c[n], d[n], dtype, library=library) for n in range(groups)]
    for name in native.instruction_sets(library):
        activation = native.Activation(config, c, d, dtype, instruction_set=name, library=library)
        for length in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 47, 65):
            x = rng.normal(size=(5, groups, length)).astype(dtype)
            x.reshape(-1)[::11] *= 100.0 if dtype == "float16" else 1e6
            want = np.stack([alone[n](np.ascontiguousarray(x[:, n])) for n in range(groups)], axis=1)
            assert activation(x).tobytes() == want.tobytes()
            activation.run(x.ctypes.data, x.ctypes.data, native.extent(config, x.shape), (0, x.size))
            assert x.tobytes() == want.tobytes()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4), (0, 3), (3, 0)])
def test_no_elements(library: Any, shape: tuple[int, ...]) -> None:
    c, d = np.ones((3, 6), np.float32), np.ones((3, 4), np.float32)
    if shape[1]:
        assert native.Activation(Config(groups=3), c, d, library=library)(np.zeros(shape, np.float32)).shape == shape
    function = training.Function(Config(groups=3), library=library)
    given, x = native.Given(Config(groups=3), c, d, "float32", None), np.zeros(shape, np.float32)
    extent, (dc, dd) = native.extent(Config(groups=3), shape), (np.ones((3, 6), np.float32), np.ones((3, 4), np.float32))
    function.forward(1, *given.arguments[6:10], x.ctypes.data, x.ctypes.data, extent)
    function.backward(1, *given.arguments[6:10], *[v.ctypes.data for v in (x, x, x, dc, dd)], extent)
    assert not dc.any()
    assert not dd.any()


def test_tables_are_made_by_several_threads_at_once(library: Any) -> None:
    rng = np.random.default_rng(0)
    c, d = rng.normal(size=(8, 6)).astype(np.float32), rng.normal(size=(8, 4)).astype(np.float32)
    inputs = [rng.normal(size=(9, 8, length)).astype(np.float32) for length in (1, 2, 3, 4, 5, 6)] * 4
    for _ in range(20):
        activation = native.Activation(Config(groups=8), c, d, library=library)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(activation, inputs))
        again = native.Activation(Config(groups=8), c, d, library=library)
        assert all(y.tobytes() == again(x).tobytes() for x, y in zip(inputs, found, strict=True))
