"""A certificate is refused to kernels with a fault in them: :file:`native/planted.cpp` has one of each kind."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opau_onnx import native
from opau_onnx.certify import activations, certificate
from opau_onnx.certify import sweep as sweeps
from opau_onnx.core.spec import BASES, Config
from tests.cases import case
from tests.custom_ops.library import required_library

ROOT = Path(__file__).resolve().parents[2] / "custom_ops"
NATIVE = Path(__file__).parent / "native"
FAULTS = {  # name -> what the certificate says, in the order of the enumeration
    "nothing": None,
    "zero_on_an_interval": "exceed the oracle's bound",
    "shifted_on_an_interval": "exceed the oracle's bound",
    "streaming_stores": "streaming stores: ",
    "lanes": ", lanes: ",
    "tiles": ", tiles: ",
    "blocks": "lanes in blocks of 8: ",
    "affine_shift": ", affine: ",
    "in_place": "in place: ",
    "one_sets_bits": "instruction sets differ",
    "sign_of_infinity": "break the range policy",
    "overflow": "break the range policy",
    "beyond_the_end": ", lanes: ",
    "runs": ", runs: ",
    "slow_sets_lanes": ", lanes: ",
    "nan": "break the range policy",
    "one_constant": "exceed the oracle's bound",
    "repeated_sets_bits": "instruction sets differ",
    "repeated_sets_tiles": ", tiles: ",
}
DEFAULT = Config()
Planted = Callable[[int], None]


@pytest.fixture(scope="module")
def library(tmp_path_factory: Any) -> ctypes.CDLL:
    """The library with faulty kernels."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("planted")
    (folder / "opau").mkdir()
    subprocess.run([sys.executable, ROOT / "generate_tables.py", folder / "opau" / "tables.hpp"], check=True)
    built = folder / "libplanted.so"
    sources = [NATIVE / "planted.cpp", *sorted((ROOT / "certify").glob("*.cpp")), ROOT / "cpu" / "prepare.cpp"]
    flags = ["-std=c++17", "-fPIC", "-shared", "-O1", "-ffp-contract=off", "-pthread"]
    include = [f"-I{ROOT}", f"-I{ROOT / 'include'}", f"-I{folder}"]
    subprocess.run(["g++", *flags, *include, *map(str, sources), "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))


@pytest.fixture
def planted(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """It stands in place of the package's; the switch that chooses its fault."""
    monkeypatch.setattr(native, "open_library", lambda: library)
    return library.plant


def activation(config: Config = DEFAULT, *values: Any) -> activations.Activation:
    c = case(config.basis, config.form, config.degrees)
    numerator, denominator = values or (c.numerator, c.denominator)
    return activations.Activation(("n",), c.config, np.float32(numerator), np.float32(denominator))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(planted: Planted, fault: str, dtype: str) -> None:
    wanted = FAULTS[fault]
    if dtype != "float32" and fault in ("affine_shift", "overflow", "one_sets_bits", "one_constant", "repeated_sets_bits"):
        pytest.skip("a fault of float32 arithmetic, which 16 bits may round away")
    planted(list(FAULTS).index(fault))
    found = sweeps.sweep(activation(), dtype, threads=1, quick=True)
    reasons = certificate.judge(found)
    if wanted is None:
        assert reasons == []
    else:
        assert any(wanted in reason for reason in reasons), reasons


def test_a_constant_that_is_a_little_wrong(planted: Planted) -> None:
    """By 2^-14, in every kind of kernel that has one."""
    planted(list(FAULTS).index("one_constant"))
    for config in (Config("hermite"), Config("legendre"), Config("laguerre", degrees=(6, 5))):
        assert certificate.judge(sweeps.sweep(activation(config), "float32", threads=1, quick=True)), str(config)


@pytest.mark.parametrize("basis", BASES)
def test_right_kernels_pass_with_one_term_only(basis: str) -> None:
    """Near the zeros of a basis polynomial its own rounding is all there is: the bound knows it, the last place does not."""
    required_library()
    config = Config(basis)
    denominator = case(basis, "abs_terms").denominator
    for term in range(6):
        numerator = np.eye(6)[term] * 1.25
        found = sweeps.sweep(activation(config, numerator, denominator), "float32", threads=1, quick=True)
        assert certificate.judge(found) == [], f"{basis}, f_{term}"
    nothing = sweeps.sweep(activation(config, np.zeros(6), denominator), "float16", threads=1)
    assert certificate.judge(nothing) == []


def test_nothing_but_what_was_compared_passes() -> None:
    variant = sweeps.Variant("lanes", 0, 0, None)
    worst = sweeps.Worst("0x3f800000", 1.0, 2.0, 1.0, 2.0, 0.5)
    found = sweeps.Sweep("float32", True, 4, 3, 0, worst, worst, worst, 0, None, 0, None, 0, None, (variant,), 0.1)
    assert certificate.judge(found) == ["float32, lanes: nothing was compared"]
