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
from opau_onnx.core.spec import Config
from opau_onnx.native import training
from tests.cases import case
from tests.custom_ops.library import required_library

ROOT = Path(__file__).resolve().parents[2] / "custom_ops"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def built(folder: Path, name: str, *kernels: str) -> Path:
    """A program of ``native/`` for AArch64, linked with some of the library's sources."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed")
    (folder / "opau").mkdir()
    subprocess.run([sys.executable, ROOT / "generate_tables.py", folder / "opau" / "tables.hpp"], check=True)
    sources = [Path(__file__).parent / "native" / f"{name}.cpp", *(ROOT / "cpu" / f"{kernel}.cpp" for kernel in kernels)]
    command = [COMPILER, "-O2", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-static", "-Wall", "-Werror"]
    command += [f"-I{ROOT}", f"-I{ROOT / 'include'}", f"-I{folder}"]
    subprocess.run([*command, *sources, "-o", folder / name], check=True)
    return folder / name


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("neon"), "evaluate", "scalar", "neon", "activation", "prepare")


@pytest.fixture(scope="module")
def backward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gradient kernels, without those of the forward pass."""
    return built(tmp_path_factory.mktemp("neon"), "differentiate", "scalar_gradient", "neon_gradient", "training", "prepare")


def emulated(*command: object) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed: the NEON kernels were compiled and not run")
    subprocess.run([EMULATOR, *map(str, command)], check=True)


def same_bits(one: Any, other: Any) -> bool:
    """NaN alike, everything else to the last bit."""
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[one.itemsize]
    with np.errstate(invalid="ignore"):
        nan = np.isnan(one.astype(np.float64)) & np.isnan(other.astype(np.float64))
    return np.array_equal(one.view(bits)[~nan], other.view(bits)[~nan])


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
    c, x = case(basis, form), patterns(dtype)
    exact = np.float64 if dtype == "float64" else np.float32
    values = np.concatenate([c.numerator, c.denominator]).astype(exact)
    (tmp_path / "coefficients").write_bytes(values.tobytes())
    (tmp_path / "x").write_bytes(x.tobytes())
    k, l = c.config.degrees
    files = [tmp_path / name for name in ("coefficients", "x", "y")]
    emulated(program, basis, form, k, l, native.DTYPES[dtype], "neon", *files)
    y = np.frombuffer((tmp_path / "y").read_bytes(), x.dtype)
    here = native.Activation(
        c.config, c.numerator, c.denominator, dtype, instruction_set="scalar", library=required_library()
    )(x)  # fmt: skip
    assert same_bits(y, here)


SHAPES = ((1, (3001,)), (3, (5, 6, 37)), (8, (6, 8, 70)), (33, (70, 33)))
"""Groups and shapes: one row, runs by lanes and in one piece, rows side by side; none fills whole vectors."""


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize(
    ("basis", "form", "degrees"),
    [
        ("hermite_e", "abs_terms", (5, 4)),
        ("power", "abs_sum", (5, 4)),
        ("legendre", "clamped", (3, 2)),
        ("laguerre", "abs_terms", (6, 5)),
    ],
)
def test_neon_gradients_have_the_same_bits(
    backward: Path, tmp_path: Path, basis: str, form: str, degrees: tuple[int, int], dtype: str
) -> None:
    c, rng = case(basis, form, degrees), np.random.default_rng(4)
    exact = np.float64 if dtype == "float64" else np.float32
    for groups, shape in SHAPES:
        config = Config(basis, form, degrees, groups, 1 if groups > 1 else 0)
        scales = rng.uniform(0.5, 2.0, (2, groups, 1))
        own = [(s * v).astype(exact) for s, v in zip(scales, (c.numerator, c.denominator), strict=True)]
        x, g = (rng.standard_normal(shape).astype(NUMPY[dtype]) for _ in range(2))
        x.reshape(-1)[::97] *= 10_000
        names = ("coefficients", "x", "g", "out")
        for name, value in zip(names, (np.concatenate([v.reshape(-1) for v in own]), x, g), strict=False):
            (tmp_path / name).write_bytes(value.tobytes())
        extent = native.extent(config, shape)
        arguments = [basis, form, *degrees, groups, native.DTYPES[dtype], "neon", *extent, *(tmp_path / name for name in names)]
        emulated(backward, *arguments)
        found = (tmp_path / "out").read_bytes()
        given = native.Given(config, *(own if groups > 1 else [v[0] for v in own]), dtype, None)
        function = training.Function(config, "scalar", required_library())
        dx, dc, dd = np.empty_like(x), *(np.empty_like(v) for v in given.arrays[:2])
        addresses = [v.ctypes.data for v in (x, g, dx, dc, dd)]
        function.backward(native.DTYPES[dtype], *given.arguments[6:10], *addresses, extent)
        sums = np.frombuffer(found[x.nbytes :], exact)
        assert same_bits(np.frombuffer(found[: x.nbytes], x.dtype), dx.reshape(-1)), shape
        assert np.isfinite(sums).all(), shape
        assert same_bits(sums, np.concatenate([dc.reshape(-1), dd.reshape(-1)])), shape
