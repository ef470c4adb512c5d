"""Activations that a model calls as functions become learned modules, at the places that are told."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import opau_onnx
from opau_onnx.errors import ReplacementError
from opau_onnx.nn import HP1, Calls, calls, replace_calls

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.gate = nn.Linear(4, 4), nn.ReLU(), nn.Tanh()

    def helper(this, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.linear(x)) + self.helper(x)
        y = F.relu(y, inplace=True)
        F.leaky_relu_(y, 0.2)
        y = y * torch.sigmoid(x)
        return self.act(y.relu()) + self.gate(F.relu(F.silu(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Block(), Block()

    def forward(self, x: Tensor, flag: bool = False) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return F.elu(y) if flag else F.mish(y)


def doubled(**options: object) -> HP1:
    """Far from all that it takes the place of."""
    return HP1(init=lambda x: 2 * x)


TWICE = HP1(init=lambda x: 2 * x)


def expected(model: Net, x: Tensor) -> Tensor:
    """The network with TWICE in place of every function but leaky_relu_, sigmoid and the last one."""

    def block(b: Block, x: Tensor) -> Tensor:
        y = TWICE(TWICE(b.linear(x)) + TWICE(x))
        y = F.leaky_relu(y, 0.2) * torch.sigmoid(x)
        return F.relu(TWICE(y)) + torch.tanh(TWICE(TWICE(x)))

    return block(model.second, block(model.first, x))


def test_every_call_is_swapped_and_told() -> None:
    model = Net()
    found = replace_calls(model, X, doubled)
    assert isinstance(found, Calls)
    assert found.model is model
    own = ["relu", "gelu", "relu", "relu", "silu", "relu"]
    assert [(s.module, s.function) for s in found.sites] == [
        *(("first", f) for f in own), *(("second", f) for f in own), ("", "mish"),
    ]  # fmt: skip
    lines = Path(__file__).read_text().splitlines()
    for site in found.sites:
        assert site.function in lines[site.line - 1], str(site)
        assert str(site).endswith(f"{site.function} in {Path(__file__).name}, line {site.line}")
    with torch.no_grad():
        torch.testing.assert_close(model(X), TWICE(expected(model, X)))
    assert torch._C._len_torch_function_stack() == 0


def test_chosen_ones() -> None:
    assert len(replace_calls(Net(), X, names="first").sites) == 6
    assert [s.function for s in replace_calls(Net(), X, functions=[F.silu, torch.sigmoid]).sites] == ["sigmoid", "silu"] * 2
    with pytest.raises(ReplacementError, match=r"called none of .* as a function"):
        replace_calls(nn.Sequential(nn.ReLU(), nn.GELU()), X)


def test_calls_that_the_example_did_not_reach_stay() -> None:
    model = Net()
    replace_calls(model, X, doubled)
    with torch.no_grad():
        torch.testing.assert_close(model(X, flag=True), F.elu(expected(model, X)))


def test_imitation() -> None:
    model = Net()
    want = model(X).detach()
    replace_calls(model, X, imitate=True)
    assert model.first.learned_calls is not model.second.learned_calls
    assert (model(X).detach() - want).abs().max() < 0.5
    kinds = {act.target for act in model.modules() if isinstance(act, HP1)}
    assert kinds == {"relu", "gelu", "silu", "mish"}


def test_training_copies_files_and_export(tmp_path: Path) -> None:
    model = Net()
    replace_calls(model, X, doubled)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    model(X).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "learned_calls" in n)
    optimizer.step()
    want = model(X).detach()
    assert torch.equal(copy.deepcopy(model)(X), want)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)(X), want)
    other = Net()
    replace_calls(other, X)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), want)
    result = opau_onnx.export_model(model.eval(), tmp_path / "m.onnx", X)
    assert result.equal, result.validation
    assert len(result.activations) == 13


def test_errors_in_the_model_leave_no_trace() -> None:
    model = Net()
    replace_calls(model, X)
    with pytest.raises(RuntimeError):
        model(torch.randn(3, 5))
    assert torch._C._len_torch_function_stack() == 0


def test_unpickled_hooks_are_hidden_from_torch_compile(tmp_path: Path) -> None:
    """In a process that never swapped a call, too."""
    torch.save([calls._Begin(), calls._End()], tmp_path / "hooks.pt")
    check = f"""
import torch
hooks = torch.load({str(tmp_path / "hooks.pt")!r}, weights_only=False)
assert all(type(hook).__call__._torchdynamo_disable for hook in hooks)
"""
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_is_refused() -> None:
    model = Net()
    replace_calls(model, X)
    with pytest.raises(ReplacementError, match="swapped calls would be lost"):
        torch.compile(model, backend="eager")(X)
    assert torch._C._len_torch_function_stack() == 0
