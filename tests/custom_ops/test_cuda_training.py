"""The CUDA training kernels and their launches, run on the host: forward bits, gradients, sums, layouts; no GPU is needed."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.errors import SpecError
from opau_onnx.native import DTYPES
from opau_onnx.native.interface import declare
from opau_onnx.native.training import CudaFunction
from opau_onnx.nn import OrthogonalPade, cuda_kernels, kernels
from tests.cases import case
from tests.nn import test_exact_gradients as exact

TORCH = {name: getattr(torch, name) for name in DTYPES}
U = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
Tensor = torch.Tensor


@pytest.fixture
def library(shim: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(shim))
    for name in ("function_create", "function_destroy", "cuda_workspace", "cuda_forward", "cuda_backward"):
        assert declare(found, f"opau_{name}")
    return found


@pytest.fixture
def on_cuda(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make opau_onnx.nn take tensors in the host's memory for a GPU's; returns its kernels."""
    limits(library)
    monkeypatch.setattr(cuda_kernels, "_function", lambda config: CudaFunction(config, library))
    monkeypatch.setattr(cuda_kernels, "_here", lambda x: nullcontext())
    monkeypatch.setattr(cuda_kernels, "_stream", lambda x: 0)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    return kernels


def limits(library: ctypes.CDLL, processors: int = 4, piece: int = 1 << 30) -> None:
    library.shim_limits(processors, ctypes.c_uint(0), ctypes.c_uint(0), ctypes.c_int64(piece))


def here(values: Tensor, run: Any) -> Any:
    """What the CPU's kernels give, whatever the fixture says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "is_cpu", True)
        return run()


def tensors(config: Config, shape: tuple[int, ...], dtype: torch.dtype, own: tuple[bool, bool] = (True, True)) -> list[Tensor]:
    """x with some elements beyond the limit, g, numerator, denominator."""
    rng = np.random.default_rng(config.groups)
    x = rng.normal(0, 2, shape)
    x.reshape(-1)[::37] *= 1e3
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows = [(config.groups,) if config.groups > 1 and many else () for many in own]
    c, d = rng.uniform(-1, 1, (*rows[0], config.numerator_size)), rng.uniform(-1, 1, (*rows[1], config.denominator_size))
    return [torch.from_numpy(x).to(dtype), torch.from_numpy(rng.normal(size=shape)).to(dtype),
            torch.from_numpy(c).to(wide), torch.from_numpy(d).to(wide)]  # fmt: skip


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def check(config: Config, x: Tensor, g: Tensor, c: Tensor, d: Tensor) -> None:
    """y and dx have the CPU kernels' bits; the sums differ by what their order may change."""
    y = kernels.forward(config, x, c, d)
    assert same(y, here(x, lambda: kernels.forward(config, x, c, d)))
    found = kernels.backward(config, x, c, d, g, True, True)
    want = here(x, lambda: kernels.backward(config, x, c, d, g, True, True))
    assert same(found[0], want[0])
    sizes = here(x, lambda: kernels.backward(config, x, c, d, g.abs(), True, True))
    u = U[torch.float64 if x.dtype == torch.float64 else torch.float32]
    for mine, right, size in zip(found[1:], want[1:], sizes[1:], strict=True):
        scale = size.abs().max() if size.numel() else 0  # of a cancelling sum's terms, roughly
        near = torch.allclose(mine, right, rtol=64 * u, atol=float(64 * u * scale), equal_nan=True)  # NaN: x meets a pole
        assert near, (config, tuple(x.shape))
    again = kernels.backward(config, x, c, d, g, True, True)
    assert all(one.numpy().tobytes() == other.numpy().tobytes() for one, other in zip(found[1:], again[1:], strict=True))


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_forward_bits_and_gradients(on_cuda: Any, basis: str, form: str, dtype: str) -> None:
    for degrees in ((5, 4), (2, 1), (9, 8)):
        at = case(basis, form, degrees)
        wide = torch.float64 if dtype == "float64" else torch.float32
        x, g, *_ = tensors(at.config, (1500,), TORCH[dtype])
        check(at.config, x, g, torch.from_numpy(at.numerator).to(wide), torch.from_numpy(at.denominator).to(wide))


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("basis", BASES)
def test_each_gradient_against_rational_arithmetic(on_cuda: Any, basis: str, dtype: str) -> None:
    """As the CPU's, element by element: near zeros of the rows, on both sides of the limit, with coefficients of 0."""
    for degrees in ((5, 4), (3, 6)):
        at = case(basis, "abs_terms", degrees)
        for n, some in enumerate((at, exact.zeros(at)[2])):
            assert exact.uses(some, TORCH[dtype], kernels) <= 1.0, f"{some}, zeros {n}"


SHAPES = [(1, 6, 1), (5, 6), (3, 6, 7), (2, 6, 31), (3, 6, 32), (2, 6, 33, 5), (700, 6), (2, 12, 4), (1, 6, 5001), (9, 6, 64)]


@pytest.mark.parametrize("own", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_groups_in_runs_of_every_kind(on_cuda: Any, dtype: str, own: tuple[bool, bool]) -> None:
    for groups in (2, 3, 6):
        config = Config("hermite_e", groups=groups)
        for shape in SHAPES:
            check(config, *tensors(config, shape, TORCH[dtype], own))


@pytest.mark.parametrize("basis", ["hermite_e", "laguerre"])
def test_many_groups(on_cuda: Any, basis: str) -> None:
    config = Config(basis, groups=700)
    for shape in ((2, 700), (1, 1400, 3), (1, 700, 33), (0, 700), (2, 700, 0)):
        check(config, *tensors(config, shape, torch.float32))


def test_sizes_and_addresses(on_cuda: Any) -> None:
    for count in (0, 1, 3, 4, 5, 255, 256, 1023, 1025, 5000, 40_001):
        for first in (0, 1):
            x, g, c, d = tensors(Config(), (count + first,), torch.float32)
            check(Config(), x[first:], g[first:], c, d)


def test_infinite_and_nan(on_cuda: Any) -> None:
    x, g, c, d = tensors(Config(), (400,), torch.float32)
    for value in (np.inf, -np.inf, np.nan):
        x[123] = value
        y, found = kernels.forward(Config(), x, c, d), kernels.backward(Config(), x, c, d, g, True, True)
        want = here(x, lambda: kernels.forward(Config(), x, c, d))
        assert same(y, want)
        assert found[0].isnan().nonzero().tolist() == [[123]]
        assert found[1].isnan().all()


def test_only_what_is_needed(on_cuda: Any) -> None:
    x, g, c, d = tensors(Config(), (999,), torch.float32)
    whole = kernels.backward(Config(), x, c, d, g, True, True)
    dx, *none = kernels.backward(Config(), x, c, d, g, True, False)
    nothing, *sums = kernels.backward(Config(), x, c, d, g, False, True)
    assert torch.equal(dx, whole[0])
    assert none == [None, None]
    assert nothing is None
    assert all(torch.equal(one, other) for one, other in zip(sums, whole[1:], strict=True))


def test_pieces_beyond_the_limit(library: ctypes.CDLL, on_cuda: Any) -> None:
    """The limit of one launch is 2**30 elements in earnest."""
    limits(library, piece=100)
    for groups, shape in ((1, (1001,)), (3, (4, 3, 301)), (3, (50, 3))):
        config = Config("hermite_e", groups=groups)
        check(config, *tensors(config, shape, torch.float32))


def test_nothing_else_is_written(library: ctypes.CDLL) -> None:
    """Workspace and results between guards: as many bytes are used as were asked for."""
    limits(library)
    config = Config("hermite_e", groups=6)
    function = CudaFunction(config, library)
    for shape in ((3, 6, 7), (2, 6, 33), (40, 6)):
        x, g, c, d = tensors(config, shape, torch.float32)
        place = shape[0], shape[1], int(np.prod(shape[2:]))
        size = function.workspace(DTYPES["float32"], 6, place, sums=True)
        kept = [torch.full((bytes_ + 64,), 0x5A, dtype=torch.uint8) for bytes_ in (size, x.nbytes, c.nbytes, d.nbytes)]
        addresses = [t.data_ptr() + 32 for t in kept]
        given = DTYPES["float32"], c.data_ptr(), 6, d.data_ptr(), 6, x.data_ptr(), g.data_ptr()
        function.backward(*given, *addresses[1:], place, addresses[0], 0)
        for tensor in kept:
            assert (tensor[:32] == 0x5A).all()
            assert (tensor[-32:] == 0x5A).all()


def test_a_step_of_training(on_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the module and autograd: the kernels are chosen, and gradients come in the parameters' shapes and dtypes."""
    calls: list[str] = []
    for name in ("forward", "backward"):
        whole = getattr(cuda_kernels, name)
        monkeypatch.setattr(cuda_kernels, name, lambda *a, name=name, whole=whole: calls.append(name) or whole(*a))
    monkeypatch.setattr(cuda_kernels, "usable", lambda *tensors: True)
    for dtype in (torch.float32, torch.float16):
        module, x = OrthogonalPade(groups=4).to(dtype), torch.randn(5, 8, 3).to(dtype).requires_grad_()
        inputs = [x, *module.parameters()]
        found = torch.autograd.grad(module(x).sum(), inputs)
        want = here(x, lambda module=module, x=x, inputs=inputs: torch.autograd.grad(module(x).sum(), inputs))
        for one, other, of in zip(found, want, inputs, strict=True):
            assert (one.dtype, one.shape) == (of.dtype, of.shape)
            torch.testing.assert_close(one, other)
    assert calls == ["forward", "backward"] * 2


def test_errors_are_told(library: ctypes.CDLL) -> None:
    function = CudaFunction(Config(groups=4), library)
    with pytest.raises(SpecError, match="does not fit 4 groups"):
        function.forward(1, 16, 4, 16, 4, 16, 16, (1, 6, 1), 16, 0)
    with pytest.raises(SpecError, match="no memory"):
        function.forward(1, 16, 4, 16, 4, 0, 16, (1, 8, 1), 16, 0)
    with pytest.raises(SpecError, match="only one is given"):
        function.backward(1, 16, 4, 16, 4, 16, 16, 16, 16, None, (1, 8, 1), 16, 0)
    assert function.workspace(99, 1, (1, 4, 1), sums=True) == -1
