"""``freeze_model``: what may change within a tolerance, and by how much it does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opau_onnx.collapse import freeze_model
from opau_onnx.core import oracle
from opau_onnx.errors import CollapseError, ReplacementError
from opau_onnx.nn import HP1, PAU, FrozenActivation, OrthogonalPade, freeze

DATA = torch.linspace(-3, 3, 1001)
LOW, HIGH = -4.5, 4.5
"""The range on which the error is proven: a quarter of the width more at either end."""


def operators(module: Any) -> int:
    return sum(n.op == "call_function" for n in module.function.graph.nodes)


@pytest.mark.parametrize("module", [HP1(), PAU(), OrthogonalPade("legendre")], ids=["HP1", "PAU", "legendre"])
def test_cheaper_and_within_the_tolerance(module: OrthogonalPade) -> None:
    """Against the oracle, on the whole range that the repr promises."""
    frozen = freeze_model(module, 5e-2, [DATA])
    assert operators(frozen) < operators(freeze(module))
    assert f"on [{LOW}, {HIGH}]" in repr(frozen)
    bound = float(repr(frozen).partition("off by at most ")[2].split()[0])
    x = torch.linspace(LOW, HIGH, 20001)
    values = [v.detach().double().numpy() for v in (module.numerator, module.denominator)]
    exact = torch.from_numpy(oracle.evaluate(module.config, x.double().numpy(), *values).value)
    error = float((frozen(x).double() - exact).abs().max())
    assert 1e-3 < error <= 1.01 * bound <= 1.01 * 5e-2  # two digits of the bound are printed
    assert torch.equal(torch.export.export(frozen, (x,)).module()(x), frozen(x))


def test_nothing_cheaper_is_exact() -> None:
    module = HP1()
    frozen = freeze_model(module, 1e-5, [DATA])
    assert torch.equal(frozen(DATA), freeze(module)(DATA))
    assert "exact: nothing cheaper is within the tolerance" in repr(frozen)


class Net(nn.Module):
    """Batch statistics, one activation at two places, two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.first = HP1()
        self.again = self.first
        self.last = HP1()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = self.last(self.again(self.first(self.norm(x))) * scale)
        return y


def test_a_network_in_training_mode_is_only_looked_at() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    frozen = freeze_model(net, 5e-2, [(torch.randn(64, 4), torch.tensor(0.25)) for _ in range(2)])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.first._forward_pre_hooks
    assert frozen.training
    assert frozen.first is frozen.again
    assert [type(m) for m in (frozen.first, frozen.last)] == [FrozenActivation, FrozenActivation]
    assert repr(frozen.first) != repr(frozen.last)  # each on its own range


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan, math.inf])
def test_tolerances_that_are_none(tolerance: float) -> None:
    with pytest.raises(CollapseError, match="expected a positive number"):
        freeze_model(HP1(), tolerance, [DATA])


def test_data_that_says_nothing() -> None:
    with pytest.raises(CollapseError, match="HP1 saw no input on the data"):
        freeze_model(HP1(), 1e-2, [torch.zeros(0)])
    with pytest.raises(CollapseError, match="the input of HP1 is infinite or NaN"):
        freeze_model(HP1(), 1e-2, [torch.tensor([1.0, math.inf])])
    with pytest.raises(ReplacementError, match="holds no OrthogonalPade"):
        freeze_model(nn.ReLU(), 1e-2, [DATA])
