"""The scale on which coefficients are learned, and what it does for a deep network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training.datasets import DATASETS, Split
from training.loop import Training, train_epoch
from training.pixels import Pixels, Shape
from training.recipes import make_recipe

from opau_onnx.core.bases import mean_squares
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES
from opau_onnx.errors import SpecError
from opau_onnx.io import datasets
from opau_onnx.nn import HP1, OrthogonalPade, balance, coefficient_parameters

SCIPY = {
    "chebyshev": "eval_chebyt", "chebyshev_u": "eval_chebyu", "hermite_e": "eval_hermitenorm", "hermite": "eval_hermite",
    "laguerre": "eval_laguerre", "legendre": "eval_legendre",
}  # fmt: skip


@pytest.mark.parametrize("basis", BASES)
def test_mean_squares(basis: str) -> None:
    from scipy import integrate, special

    function = getattr(special, SCIPY[basis]) if basis in SCIPY else lambda n, x: x**n
    for n, value in enumerate(mean_squares(basis, 6)):
        density = lambda x, n=n: function(n, x) ** 2 * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # noqa: E731
        assert float(value) == pytest.approx(integrate.quad(density, -30, 30)[0], rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_each_gradient_has_its_own_factor(form: str) -> None:
    module = OrthogonalPade("hermite_e", (3, 2), form, groups=2)
    assert [id(p) for p in coefficient_parameters(nn.Sequential(module, nn.Linear(4, 4), module))] == [
        id(module.numerator), id(module.denominator),
    ]  # fmt: skip
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    balance(optimizer, nn.Sequential(module))
    before = [p.detach().clone() for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    first = FORMS[form].first
    expected = torch.tensor([1.0, 1.0, 1 / 2, 1 / 6])
    c, d = (old - new.detach() for old, new in zip(before, module.parameters(), strict=True))
    assert torch.allclose(c, expected.expand(2, 4))
    assert torch.allclose(d, expected[first : first + d.shape[-1]].expand_as(d))


def test_one_parameter_of_two_activations_is_scaled_once() -> None:
    first, second = HP1(), HP1()
    second.numerator, second.denominator = first.numerator, first.denominator
    optimizer = torch.optim.SGD(first.parameters(), lr=1.0)
    balance(optimizer, nn.Sequential(first, second))
    first.numerator.grad = torch.ones(6)
    before = first.numerator.detach().clone()
    optimizer.step()
    assert (before - first.numerator.detach())[-1].item() == pytest.approx(1 / 120, rel=1e-5)


def test_balance_ends_with_its_handle() -> None:
    model = HP1()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    balance(optimizer, model).remove()
    model.numerator.grad = torch.ones(6)
    before = model.numerator.detach().clone()
    optimizer.step()
    assert torch.allclose(before - model.numerator.detach(), torch.ones(6))


def test_balance_refuses_what_it_cannot_scale() -> None:
    model = nn.Sequential(nn.Linear(2, 2), HP1())
    with pytest.raises(SpecError, match="none of the coefficients"):
        balance(torch.optim.SGD(model[0].parameters(), lr=1.0), model)
    nn.utils.parametrizations.weight_norm(model[1], "numerator", dim=None)
    with pytest.raises(SpecError, match="'1' are parametrized"):
        balance(torch.optim.SGD(model.parameters(), lr=1.0), model)


def test_balance_scales_coefficients_alone_and_after_clipping() -> None:
    model = nn.Sequential(HP1(), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    balance(optimizer, model)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 3)).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    scales = [torch.tensor([1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120]), torch.tensor([1, 1 / 2, 1 / 6, 1 / 24]), 1.0, 1.0]
    for parameter, old, gradient, scale in zip(model.parameters(), before, gradients, scales, strict=True):
        assert torch.allclose(old - parameter, gradient * scale, atol=1e-6)


class Block(nn.Module):
    def __init__(self, width: int, basis: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(part for _ in range(2) for part in (
            nn.BatchNorm2d(width), OrthogonalPade(basis), nn.Conv2d(width, width, 3, padding=1, bias=False),
        )))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def deep(basis: str, width: int = 8, blocks: int = 8) -> nn.Module:
    """As deep as PreActResNet-18, and small."""
    torch.manual_seed(0)
    stem = nn.Conv2d(1, width, 3, stride=4, padding=1, bias=False)
    head = (nn.BatchNorm2d(width), OrthogonalPade(basis), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(stem, *(Block(width, basis) for _ in range(blocks)), *head)


def learn(model: nn.Module, **options: Any) -> list[float]:
    """The loss of each epoch of 20 steps on real images."""
    torch.set_num_threads(1)
    images, labels = datasets.load_sample()
    split = Split(torch.from_numpy(images[:, np.newaxis]), torch.from_numpy(labels))
    recipe = make_recipe("sgd-cosine", mirrored=True, epochs=4, batch_size=50, **options)
    run = Training.begin("deep", model, recipe, Pixels(DATASETS["fashion-mnist"], Shape(1, 28)), split.steps(50))
    return [train_epoch(run, split, lambda *_: None)["loss"] for _ in range(recipe.epochs)]


def largest_slope(model: nn.Module) -> float:
    """Of all activations, beyond their bends."""
    modules = [m for m in model.modules() if isinstance(m, OrthogonalPade)]
    return max(float((m.numerator[-1] / m.denominator[-1]).detach().abs()) for m in modules)


@pytest.mark.parametrize("basis", ["hermite_e", "hermite"])
def test_a_deep_network_learns_steadily(basis: str) -> None:
    model = deep(basis)
    losses = learn(model)
    print(losses, largest_slope(model))
    assert losses[-1] < 0.75 * losses[0]
    assert max(losses) < 2.6
    assert all(p.isfinite().all() for p in model.parameters())
    start = [p.detach() for p in coefficient_parameters(deep(basis))]
    assert all(not torch.equal(a, b) for a, b in zip(start, coefficient_parameters(model), strict=True))


def test_without_a_common_scale_it_does_not() -> None:
    # The control: the test above can fail.
    model = deep("hermite")
    try:
        losses = learn(model, balanced=False, clip=0.0)
    except FloatingPointError:
        return
    print(losses, largest_slope(model))
    assert losses[-1] >= 0.75 * losses[0]
