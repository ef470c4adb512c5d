"""The activations by name: the functions that they are known as, in every dtype, and as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from opau_onnx import export_model
from opau_onnx.core.targets import TARGETS
from opau_onnx.models.activations import ACTIVATIONS, create_activation
from opau_onnx.nn import OrthogonalPade

KNOWN = [name for name in ACTIVATIONS if name in TARGETS]


def test_the_list_is_whole() -> None:
    """Those that the method's paper compares, and the targets of its fits."""
    rational = {"hp1", "hp2", "opau_chebyshev", "opau_chebyshev_u", "opau_laguerre", "opau_legendre", "pau_a", "pau_b"}
    assert set(ACTIVATIONS) == rational | (set(TARGETS) - {"sigmoid"})
    assert {n for n in ACTIVATIONS if isinstance(create_activation(n), OrthogonalPade)} == rational


@pytest.mark.parametrize("name", KNOWN)
def test_a_name_is_one_function(name: str) -> None:
    """The module that a network is made with and the function that a rational one is fitted to."""
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    got = create_activation(name).double()(x).detach().numpy()
    assert np.abs(got - TARGETS[name](x.numpy())).max() < 1e-8  # PyTorch takes softplus for x above 20 only


@pytest.mark.parametrize("name", ["tanhsoft", "eis"])
def test_published_values(name: str) -> None:
    """Worked out by hand from the abstracts' formulas, with softplus(1) = ln(1 + e) = 1.31326169."""
    want = {"tanhsoft": [0.0, 0.70137413 * 1.31326169], "eis": [0.0, 1.31326169 / 2**0.5]}[name]
    assert create_activation(name)(torch.tensor([0.0, 1.0])).tolist() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["tanhsoft", "eis"])
def test_sixteen_bits_lose_no_more_than_a_rounding(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-2e4, -300.0, -7.0, -1.0, 0.0, 0.5, 3.0, 300.0, 6e4], dtype=dtype)  # 300 squared is beyond float16
    module = create_activation(name)
    got, want = module(x), module(x.double())
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))


@pytest.mark.parametrize("name", ["tanhsoft", "eis"])
def test_gradients(name: str) -> None:
    x = torch.linspace(-5, 5, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(create_activation(name).double(), (x,))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["prelu", "softplus", "tanhsoft", "eis"])
def test_export(name: str, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), create_activation(name)).eval()
    result = export_model(model, tmp_path / "net.onnx", torch.randn(4, 8), dtype=dtype)
    assert result.equal
    assert result.activations == []  # ONNX has them all, so nothing of ours is in the file
