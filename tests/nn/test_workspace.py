"""The memory kept between calls never shows: not in results, not across modes, threads or dtypes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from opau_onnx.nn import HP1
from opau_onnx.nn.workspace import SHAPES, Workspace, borrow, give_back


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


def test_threads() -> None:
    module = HP1()
    inputs = [torch.randn(20_000 + 17 * i) for i in range(16)]
    want = [step(module, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: step(module, x), inputs * 4))
    for got, right in zip(found, want * 4, strict=True):
        for a, b in zip(got, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)  # sums differ with the number of threads


def test_a_second_borrower_gets_its_own() -> None:
    first = borrow(torch.float32)
    second = borrow(torch.float32)
    assert first is not second
    give_back(first)
    assert borrow(torch.float32) is first


def test_another_dtype_gets_its_own() -> None:
    give_back(Workspace(torch.float32))
    assert borrow(torch.float64).dtype == torch.float64


def test_workspace() -> None:
    workspace = Workspace(torch.float32)
    workspace.start(torch.empty(4, 5))
    first, second = workspace.take(), workspace.take()
    assert first.shape == (4, 5)
    assert first.data_ptr() != second.data_ptr()
    workspace.start(torch.empty(10))
    assert workspace.take().data_ptr() == first.data_ptr()
    workspace.start(torch.empty(4, 5))
    assert workspace.take() is first
    for n in range(2 * SHAPES):
        workspace.start(torch.empty(n))
        workspace.take()
    assert len(workspace.views) <= SHAPES + 1
    assert len(workspace.buffers) == 2
    workspace.start(torch.empty(21))
    assert workspace.take().numel() == 21


@pytest.mark.parametrize("groups", [1, 4])
def test_nothing_grows(groups: int) -> None:
    """Steps of one shape take no new memory after the first."""
    module, x = HP1(groups=groups), torch.randn(3, 8, 500)
    step(module, x)
    workspace = borrow(torch.float32)
    give_back(workspace)
    count = len(workspace.buffers)
    for _ in range(3):
        step(module, x)
    assert len(workspace.buffers) == count < 30
