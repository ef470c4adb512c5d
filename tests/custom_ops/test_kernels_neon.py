"""The NEON kernels: compiled by Debian's cross compiler and run by an emulator, bit for bit against the portable ones here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx import native
from tests.cases import case
from tests.custom_ops.library import required_library

ROOT = Path(__file__).resolve().parents[2] / "custom_ops"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed")
    folder = tmp_path_factory.mktemp("neon")
    (folder / "opau").mkdir()
    subprocess.run([sys.executable, ROOT / "generate_tables.py", folder / "opau" / "tables.hpp"], check=True)
    sources = [ROOT / "cpu" / f"{name}.cpp" for name in ("scalar", "neon", "activation", "prepare")]
    command = [COMPILER, "-O2", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-static", "-Wall", "-Werror"]
    command += [f"-I{ROOT}", f"-I{ROOT / 'include'}", f"-I{folder}"]
    own = Path(__file__).parent / "native" / "evaluate.cpp"
    subprocess.run([*command, own, *sources, "-o", folder / "evaluate"], check=True)
    return folder / "evaluate"


def patterns(dtype: str) -> Any:
    if dtype in ("float16", "bfloat16"):
        return np.arange(1 << 16, dtype=np.uint16).view(NUMPY[dtype])
    kind = np.uint32 if dtype == "float32" else np.uint64
    rng = np.random.default_rng(11)
    bits = rng.integers(0, np.iinfo(kind).max, 1 << 16, dtype=kind, endpoint=True).view(NUMPY[dtype])
    return np.concatenate([bits, rng.standard_normal(100_001).astype(NUMPY[dtype]) * 4])


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize(
    ("basis", "form"), [("hermite_e", "abs_terms"), ("power", "abs_sum"), ("legendre", "clamped"), ("laguerre", "abs_terms")]
)
def test_neon_gives_the_same_bits(program: Path, tmp_path: Path, basis: str, form: str, dtype: str) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed: the NEON kernels were compiled and not run")
    c, x = case(basis, form), patterns(dtype)
    exact = np.float64 if dtype == "float64" else np.float32
    values = np.concatenate([c.numerator, c.denominator]).astype(exact)
    (tmp_path / "coefficients").write_bytes(values.tobytes())
    (tmp_path / "x").write_bytes(x.tobytes())
    k, l = c.config.degrees
    arguments = [basis, form, k, l, native.DTYPES[dtype], "neon", tmp_path / "coefficients", tmp_path / "x", tmp_path / "y"]
    subprocess.run([EMULATOR, program, *map(str, arguments)], check=True)
    y = np.frombuffer((tmp_path / "y").read_bytes(), x.dtype)
    here = native.Activation(
        c.config, c.numerator, c.denominator, dtype, instruction_set="scalar", library=required_library()
    )(x)  # fmt: skip
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[x.itemsize]
    with np.errstate(invalid="ignore"):
        nan = np.isnan(y.astype(np.float64)) & np.isnan(here.astype(np.float64))
    assert np.array_equal(y.view(bits)[~nan], here.view(bits)[~nan])
