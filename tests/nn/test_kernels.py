"""The compiled kernels behind the torch operator: layouts, threads, modes, and what runs without the library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from opau_onnx.errors import LibraryError, SpecError
from opau_onnx.native import open_library
from opau_onnx.nn import HP1, implementation, kernels, orthogonal_pade, traceable
from tests.nn.test_forward import strided


def step(module: HP1, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaf = x.detach().clone().requires_grad_()
    y = module(leaf)
    dx, dc = torch.autograd.grad(y.square().sum(), [leaf, module.numerator])
    return y.detach(), dx, dc


def test_results_are_not_overwritten() -> None:
    module, x = HP1(), torch.randn(1000)
    first = step(module, x)
    kept = [v.clone() for v in first]
    step(module, 3 * x)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_inference_mode_before_and_after_training() -> None:
    module, x = HP1(), torch.randn(777)
    with torch.inference_mode():
        before = module(x).clone()
    y, _, _ = step(module, x)
    assert torch.equal(before, y)
    with torch.inference_mode():
        assert torch.equal(module(x), y)


def test_dtypes_and_sizes_take_turns() -> None:
    module, wide = HP1(), HP1().double()
    for size in (5, 4000, 17, 300_000, 3):
        x = torch.linspace(-3, 3, size)
        torch.testing.assert_close(module(x).double(), wide(x.double()), rtol=1e-4, atol=1e-5)


def test_threads_of_python() -> None:
    """Autograd from several threads at once, with the same bits."""
    module = HP1()
    inputs = [torch.randn(20_000 + 17 * i) for i in range(16)]
    want = [step(module, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: step(module, x), inputs * 4))
    for got, right in zip(found, want * 4, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("groups", [1, 8])
def test_bits_do_not_depend_on_the_threads(groups: int, threads: Callable[[int], None]) -> None:
    module, x = HP1(groups=groups), torch.randn(3, 64, 2111)
    found = []
    for count in (1, 2, 7):
        threads(count)
        found.append(step(module, x))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_forked_workers() -> None:
    """As a DataLoader's, after the threads were used here."""
    module = HP1()
    inputs = [torch.randn(300_000) for _ in range(4)]
    step(module, inputs[0])
    data = torch.utils.data.DataLoader(_Applied(module, inputs), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for x, y in zip(inputs, data, strict=True):
        assert torch.equal(y, module(x).detach())


class _Applied(torch.utils.data.Dataset[Tensor]):
    def __init__(self, module: HP1, inputs: list[Tensor]) -> None:
        self.module, self.inputs = module, inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Tensor:
        return self.module(self.inputs[index]).detach()  # type: ignore[no-any-return]


def test_it_is_the_kernels_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In eager mode on plain tensors, forward and backward, and nowhere else."""
    calls: list[str] = []
    for name in ("forward", "backward"):
        whole = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, name=name, whole=whole, **k: calls.append(name) or whole(*a, **k))
    module, x = HP1(), torch.randn(10)
    step(module, x)
    assert calls == ["forward", "backward"]
    with FlopCounterMode(display=False):
        module(x)
    torch.func.vmap(module)(x)
    torch.autograd.grad(module(x.requires_grad_()).sum(), x, create_graph=True)
    assert calls == ["forward", "backward", "forward"]


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", strided())
def test_gradients_of_every_memory_format(name: str, groups: int) -> None:
    x = strided()[name].double()
    if groups > 1 and x.shape[1] % groups:
        pytest.skip("the channels are no multiple of the groups")
    module = HP1(groups=groups).double()
    g = torch.randn(x.shape[::-1], dtype=x.dtype).permute(*range(x.dim())[::-1])
    found = kernels.backward(module.config, x, module.numerator, module.denominator, g, need_x=True, need_coefficients=True)
    want = traceable.backward(module.config, x, module.numerator, module.denominator, g, need_x=True, need_coefficients=True)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert kernels.forward(module.config, x, module.numerator, module.denominator).stride() == torch.empty_like(x).stride()


def test_only_what_is_needed() -> None:
    module, x = HP1(), torch.randn(9, requires_grad=True)
    module.requires_grad_(False)
    module(x).sum().backward()
    assert x.grad is not None
    assert module.numerator.grad is None
    module.requires_grad_(True)
    module(x.detach()).sum().backward()
    assert module.numerator.grad is not None


def test_implementation() -> None:
    found = implementation()
    assert found.kernel
    assert found.threads
    assert found.instruction_set in str(found)


def test_without_the_library(tmp_path: Path) -> None:
    """Everything still works, and is said once."""
    code = """
import torch, opau_onnx.nn as own
m, x = own.HP1(), torch.linspace(-9, 9, 50, requires_grad=True)
for _ in range(2): m(x).sum().backward()
print(own.implementation(), m.numerator.grad.isfinite().all().item())
"""
    environment = os.environ | {"OPAU_LIBRARY": str(tmp_path / "none.so")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "PyTorch's operations on every device, since OPAU_LIBRARY is" in done.stdout
    assert done.stdout.rstrip().endswith("True")
    assert done.stderr.count("none.so") == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_instead_of_kept(reentrant: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6), HP1(), nn.Linear(6, 6), HP1())
    x = torch.randn(5, 6, requires_grad=True)
    model(x).square().sum().backward()
    want = [p.grad for p in (x, *model.parameters())]
    for p in (x, *model.parameters()):
        p.grad = None
    checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    assert all(torch.equal(a, b.grad) for a, b in zip(want, (x, *model.parameters()), strict=True))


def test_kept_in_bfloat16() -> None:
    """As docs/training.md shows: half the memory, and the gradients at the rounded input."""
    module, x = HP1(), torch.randn(1000, requires_grad=True)
    rounded = x.detach().bfloat16().float().requires_grad_()
    (want,) = torch.autograd.grad(module(rounded).sum(), rounded)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.bfloat16() if t.numel() > 100 else t, lambda t: t.float() if t.dtype == torch.bfloat16 else t
    ):
        y = module(x)
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(found, want)


def test_freed_memory_is_an_error() -> None:
    """As FSDP frees parameters between uses."""
    module, x = HP1(), torch.randn(5)
    module.numerator.untyped_storage().resize_(0)
    with pytest.raises(SpecError, match="no memory"):
        module(x)


def test_subclasses_take_their_own_way() -> None:
    """A wrapper's memory is not its values'."""
    module, x = HP1(), torch.randn(5)
    wrapped = TwoTensor(module.numerator.detach(), module.numerator.detach())
    y = orthogonal_pade(x, wrapped, module.denominator, module.config)
    assert isinstance(y, TwoTensor)
    torch.testing.assert_close(y.a, module(x))


def test_a_library_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    with pytest.raises(LibraryError, match="cannot be loaded"):
        open_library(str(tmp_path / "broken.so"))
