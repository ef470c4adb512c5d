"""The CUDA kernels and their launches, run on the host: bits, sizes, alignments, grids, runs; no GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx import native
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from tests.cases import case, inputs
from tests.custom_ops import cuda_shim
from tests.custom_ops.cuda_shim import Kernels

NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
INTEGERS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
GRIDS = [(4, (0, 0)), (1, (1, 1)), (132, (3, 2))]
"""(multiprocessors, most blocks along x and y): grids as asked for, and small ones that make threads stride."""


@pytest.fixture
def library(shim: Path) -> Path:
    return shim


def same(a: Any, b: Any) -> Any:
    integers = INTEGERS[a.dtype.itemsize]
    with np.errstate(invalid="ignore"):
        return (a.view(integers) == b.view(integers)) | (np.isnan(a) & np.isnan(b))


def values(config: Config, dtype: str, count: int) -> Any:
    with np.errstate(over="ignore"):
        return np.resize(inputs(config).astype(NUMPY[dtype]), count)


def placed(x: Any, offset: int) -> Any:
    """A copy of x whose address is ``offset`` elements past a multiple of 16 bytes."""
    buffer = np.empty(x.size + 64, x.dtype)
    start = (-buffer.ctypes.data % 16 + 16) // x.itemsize + offset
    out = buffer[start : start + x.size]
    out[:] = x.reshape(-1)
    return out


def drawn(config: Config, own: tuple[bool, bool] = (True, True)) -> tuple[Any, Any]:
    rng = np.random.default_rng(config.groups)
    sizes = (config.numerator_size, config.denominator_size)
    c, d = (rng.uniform(-1, 1, (config.groups, n) if many else (n,)) for n, many in zip(sizes, own, strict=True))
    return c, d


def check(kernels: Kernels, expected: Any, x: Any, shape: tuple[int, ...], **how: Any) -> None:
    y = np.zeros_like(x)
    kernels.run(x, y, native.extent(kernels.config, shape), **how)
    wrong = ~same(y.reshape(-1), expected.reshape(-1))
    assert not wrong.any(), (how, shape, int(wrong.sum()), np.argwhere(wrong)[:5].tolist())


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_same_bits_as_the_cpu_kernels(library: Path, basis: str, form: str, dtype: str) -> None:
    for degrees in ((5, 4), (9, 8), (0, 1)):
        c = case(basis, form, degrees)
        x = values(c.config, dtype, 3001)
        expected = native.Activation(c.config, c.numerator, c.denominator, dtype)(x)
        check(Kernels(library, c.config, c.numerator, c.denominator, dtype), expected, x, x.shape)


@pytest.mark.parametrize("dtype", NUMPY)
def test_every_element_is_written_once_at_any_size_and_alignment(library: Path, dtype: str) -> None:
    c = case("hermite_e", "abs_terms")
    kernels = Kernels(library, c.config, c.numerator, c.denominator, dtype)
    for size in (0, 1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 255, 2049):
        x = values(c.config, dtype, size)
        expected = native.Activation(c.config, c.numerator, c.denominator, dtype)(x)
        for offsets in ((0, 0), (1, 1), (3, 3), (1, 0), (0, 1)):
            for processors, largest in GRIDS:
                source, around = placed(x, offsets[0]), placed(np.full(size + 2, 3, x.dtype), offsets[1] - 1)
                target, writes = around[1:-1], np.zeros(size, np.int32)
                kernels.run(source, target, (1, 1, size), processors=processors, largest=largest, writes=writes)
                assert same(target, expected).all(), (size, offsets, largest)
                assert (writes == 1).all(), (size, offsets, largest)
                assert around[0] == around[-1] == 3, (size, offsets, largest)
                assert same(source, x).all()


def test_a_large_tensor(library: Path) -> None:
    c = case("hermite_e", "abs_terms")
    x = values(c.config, "float32", 1_000_001)
    expected = native.Activation(c.config, c.numerator, c.denominator)(x)
    check(Kernels(library, c.config, c.numerator, c.denominator, "float32"), expected, x, x.shape)


def test_in_place(library: Path) -> None:
    for config, shape in ((Config(), (20_003,)), (Config(groups=3), (5, 3, 77)), (Config(groups=100), (5, 100, 7))):
        c, d = drawn(config, (config.groups > 1,) * 2)
        x = values(config, "float32", int(np.prod(shape))).reshape(shape)
        expected, both = native.Activation(config, c, d)(x), x.copy()
        kernels = Kernels(library, config, c, d, "float32")
        kernels.run(both, both, native.extent(kernels.config, shape))
        assert same(both, expected).all()


SHAPES = [(2, 6, 7), (5, 6, 1), (3, 6, 33, 31), (2, 6, 1024), (1, 6, 5001), (700, 6), (0, 6, 4), (3, 6, 0)]


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("own", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("groups", [2, 6])
def test_few_groups(library: Path, groups: int, own: tuple[bool, bool], dtype: str) -> None:
    config = Config("hermite_e", groups=groups)
    c, d = drawn(config, own)
    kernels = Kernels(library, config, c, d, dtype)
    for shape in SHAPES:
        x = values(config, dtype, int(np.prod(shape))).reshape(shape)
        expected = native.Activation(config, c, d, dtype)(x)
        for processors, largest in GRIDS:
            check(kernels, expected, x, shape, processors=processors, largest=largest)
            assert kernels.launches == (x.size > 0)


MANY = [(2, 700), (2, 700, 5), (1, 700, 64), (3, 1400), (1, 700, 300), (40, 700)]


@pytest.mark.parametrize("basis", ["hermite_e", "laguerre"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("upload", [True, False], ids=["constant", "by value"])
def test_many_groups(library: Path, upload: bool, dtype: str, basis: str) -> None:
    config = Config(basis, groups=700)
    c, d = drawn(config)
    kernels = Kernels(library, config, c, d, dtype, upload)
    for shape in MANY:
        x = values(config, dtype, int(np.prod(shape))).reshape(shape)
        expected = native.Activation(config, c, d, dtype)(x)
        for processors, largest in GRIDS:
            check(kernels, expected, x, shape, processors=processors, largest=largest)
            assert (kernels.launches == 1) == upload


@pytest.mark.parametrize("groups", [3, 100])
def test_each_element_of_groups_is_written_once(library: Path, groups: int) -> None:
    config = Config("hermite_e", groups=groups)
    c, d = drawn(config)
    kernels = Kernels(library, config, c, d, "float16")
    for shape in ((4, 300), (2, 300, 3), (1, 300, 7)):
        x = values(config, "float16", int(np.prod(shape))).reshape(shape)
        expected = native.Activation(config, c, d, "float16")(x).reshape(-1)
        for offsets in ((0, 0), (3, 3), (0, 1)):
            source, target = placed(x, offsets[0]), placed(x, offsets[1])
            writes = np.zeros(x.size, np.int32)
            kernels.run(source, target, native.extent(kernels.config, shape), processors=1, writes=writes)
            assert same(target, expected).all()
            assert (writes == 1).all()


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("upload", [True, False], ids=["constant", "by value"])
def test_an_affine_before_the_activation(library: Path, upload: bool, dtype: str) -> None:
    rng = np.random.default_rng(2)
    for groups, shape in ((1, (50,)), (3, (5, 3, 50)), (6, (40, 6)), (100, (3, 100, 7)), (700, (2, 700))):
        config = Config("hermite_e", groups=groups)
        x = values(config, dtype, int(np.prod(shape))).reshape(shape)
        affine = rng.uniform(-2, 2, groups), rng.uniform(-1, 1, groups)
        for own in ((True, True), (False, False)):
            c, d = drawn(config, own if groups > 1 else (False, False))
            expected = native.Activation(config, c, d, dtype, affine=affine)(x)
            kernels = Kernels(library, config, c, d, dtype, upload, affine)
            for processors, largest in GRIDS:
                check(kernels, expected, x, shape, processors=processors, largest=largest)
            check(kernels, expected, x, shape, piece_limit=20)


@pytest.mark.parametrize("limit", [10, 100, 1000])
def test_pieces_beyond_the_limit_are_divided(library: Path, limit: int) -> None:
    """The limit is 2**30 elements in earnest; longer runs are launched one by one."""
    for groups, shape in ((3, (5, 3, 50)), (3, (40, 6)), (60, (7, 60, 9)), (60, (3, 60, 200))):
        config = Config("hermite_e", groups=groups)
        c, d = drawn(config)
        x = values(config, "float32", int(np.prod(shape))).reshape(shape)
        expected = native.Activation(config, c, d)(x)
        for upload in (True, False):
            check(Kernels(library, config, c, d, "float32", upload), expected, x, shape, piece_limit=limit)


def sanitized(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    reason = cuda_shim.unavailable()
    if reason is not None:
        pytest.skip(reason)
    library = cuda_shim.build(folder, sanitized=True)
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0:exitcode=66", "LD_PRELOAD": ":".join(found)}
    environment["PYTHONPATH"] = str(cuda_shim.ROOT.parent)
    script = cuda_shim.NATIVE / "drive_cuda_shim.py"
    return subprocess.run(
        [sys.executable, script, library, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_sanitizers_have_nothing_to_report(tmp_path: Path) -> None:
    done = sanitized(tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "driven"


def test_the_sanitizers_would_report(tmp_path: Path) -> None:
    done = sanitized(tmp_path, "--break")
    assert done.returncode == 66
    assert "heap-buffer-overflow" in done.stderr
