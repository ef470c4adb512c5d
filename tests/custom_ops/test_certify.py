"""The C++ oracle against the Python one, and certificates that pass and fail for the right reasons."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from opau_onnx.certify import activations, certificate
from opau_onnx.certify import sweep as sweeps
from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from tests.cases import case
from tests.custom_ops.library import required_library


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return required_library()


def activation(basis: str = "hermite_e", form: str = "abs_terms", degrees: tuple[int, int] = (5, 4)) -> activations.Activation:
    c = case(basis, form, degrees)
    return activations.Activation(("n",), c.config, c.numerator.astype(np.float32), c.denominator.astype(np.float32))


@pytest.mark.parametrize("degrees", [(5, 4), (3, 2), (0, 0), (7, 7), (8, 3), (16, 16)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_the_oracle_in_c_equals_the_one_in_python(library: Any, basis: str, form: str, degrees: tuple[int, int]) -> None:
    c = case(basis, form, degrees)
    bits = np.random.default_rng(2).integers(0, 1 << 32, 3000, dtype=np.uint32)
    x = bits.view(np.float32)
    x = np.concatenate([x[np.isfinite(x)].astype(np.float64), np.linspace(-9, 9, 1001)])
    value, condition, bound, underflow = (np.empty_like(x) for _ in range(4))
    pointer, wide, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    library.opau_oracle.argtypes = [text, text, wide, wide, pointer, pointer, pointer, wide, *[pointer] * 4]
    library.opau_oracle.restype = text
    k, l = degrees
    arrays = [np.ascontiguousarray(v, np.float64).ctypes.data for v in (c.numerator, c.denominator)]
    message = library.opau_oracle(
        basis.encode(), form.encode(), k, l, *arrays, x.ctypes.data, x.size,
        *(v.ctypes.data for v in (value, condition, bound, underflow)),
    )  # fmt: skip
    assert message is None
    found = oracle.evaluate(c.config, x, c.numerator, c.denominator)
    sure = np.isfinite(found.value) & (found.bound * 2.0**-53 <= 1e-9 * np.abs(found.value)) & (found.condition < 1e6)
    assert sure.mean() > 0.3
    np.testing.assert_allclose(value[sure], found.value[sure], rtol=1e-9, atol=5e-324)
    np.testing.assert_allclose(condition[sure], found.condition[sure], rtol=1e-6)
    np.testing.assert_allclose(bound[sure], found.bound[sure], rtol=1e-5, atol=1e-300)
    far = sure & (found.underflow > 0) & (found.underflow < 1e300)
    np.testing.assert_allclose(underflow[far], found.underflow[far], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_sixteen_bits_are_swept_whole(library: Any, form: str, dtype: str) -> None:
    found = sweeps.sweep(activation(form=form), dtype, threads=2)
    assert found.complete
    assert found.inputs == 1 << 16
    assert certificate.judge(found) == []
    assert found.judged > 1000


def test_a_sample_of_float32(library: Any) -> None:
    calls: list[int] = []
    found = sweeps.sweep(activation(), "float32", threads=2, quick=True, progress=calls.append)
    assert not found.complete
    assert found.inputs == sweeps.count("float32", quick=True) == calls[-1]
    assert certificate.judge(found) == []
    worst = found.worst_conditioned
    assert worst is not None
    assert 1 < worst.ulp < 64
    x = np.uint32(int(worst.bits, 16)).view(np.float32)
    c = case("hermite_e", "abs_terms")
    exact = oracle.evaluate(c.config, np.float64(x), c.numerator, c.denominator)
    assert float(x) == worst.x
    assert worst.value == pytest.approx(float(exact.value), rel=1e-12)
    assert worst.condition == pytest.approx(float(exact.condition), rel=1e-9)
    assert worst.ulp == pytest.approx(abs(worst.y - worst.value) / float(np.spacing(np.float32(abs(worst.value)))), rel=1e-6)


def test_other_coefficients_are_found_out(library: Any) -> None:
    a = activation()
    changed = a.numerator.astype(np.float64) * [1, 1 + 1e-4, 1, 1, 1, 1]
    found = sweeps.sweep(a, "float32", threads=2, quick=True, reference=(changed, a.denominator))
    bound, last = certificate.judge(found)
    assert "errors exceed the oracle's bound, the first at" in bound
    assert "ULP at x =" in last


def test_reasons() -> None:
    worst = sweeps.Worst("0x3f800000", 1.0, 2.0, 1.0, 2.0, 90.0)
    share = sweeps.Worst("0x3f800000", 1.0, 2.0, 1.0, 2.0, 3.5)
    lanes = sweeps.Variant("lanes", 9, 1, "0x00000002")
    rest = 2, "0x7f800000", 1, "0x00000001", (lanes,), 0.1
    bad = sweeps.Sweep("float32", True, 4, 3, 0, worst, worst, share, 1, "0x3f800000", *rest)
    assert certificate.judge(bad) == [
        "float32: 1 errors exceed the oracle's bound, the first at 0x3f800000, the largest 3.5 times at x = 1.0 (0x3f800000): "
        "2.0 for 1.0",
        "float32: 90.00 ULP at x = 1.0 (0x3f800000); 64 allowed",
        "float32: 2 inputs break the range policy, the first is 0x7f800000",
        "float32: instruction sets differ for 1 inputs, the first is 0x00000001",
        "float32, lanes: 1 results differ from those of one row, the first at 0x00000002",
    ]
    assert len(certificate.judge(bad, max_ulp=100)) == 4
    nothing = sweeps.Sweep("float32", True, 4, 0, 4, None, None, None, 0, None, 0, None, 0, None, (), 0.1)
    assert certificate.judge(nothing) == ["float32: there is no input of which the oracle's bound says something"]


def test_groups_are_activations_of_their_own(tmp_path: Any) -> None:
    from tests.export import single

    grouped = single.Case(Config(groups=3), per_group=(True, False))
    c, d = single.coefficients(grouped)
    c[2] = c[0]
    path = tmp_path / "g.onnx"
    path.write_bytes(single.model(grouped, ["N", 6], (c, d)).SerializeToString())
    first, second = activations.read(path)
    assert [n.split("[")[1] for n in first.nodes] == ["0]", "2]"]
    assert len(second.nodes) == 1
    assert np.array_equal(first.numerator, c[0])
    assert np.array_equal(second.denominator, d)
