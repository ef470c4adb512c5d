"""PyTorch as the reference: what is moved and put back, how often, and what is in memory meanwhile."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opau_onnx.compare import policies, torch_reference
from opau_onnx.compare.nudging import NudgedModel, nudge_
from opau_onnx.compare.torch_reference import TorchReference
from opau_onnx.errors import ValidationError
from opau_onnx.nn import HP1

X = torch.full((1, 2), 0.7)


def linear() -> nn.Module:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.3, -2.0]]))
    return model


def test_nudges_leave_whole_numbers_alone() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    moved = weight.clone()
    nudge_(moved, np.random.default_rng(0))
    assert (moved != weight).tolist() == [[False, False], [True, False]]
    assert (moved / weight)[1, 0].item() == pytest.approx(1.0, abs=2**-24)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_number_is_moved_whatever_the_chunks_and_the_layout(monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    monkeypatch.setattr(policies, "CHUNK", 7)
    values = (torch.rand(2, 3, 4, 5, dtype=torch.float64) + 0.1).to(memory_format=layout)
    moved = values.clone(memory_format=torch.preserve_format)
    nudge_(moved, np.random.default_rng(0))
    assert (moved != values).double().mean() > 0.99
    assert ((moved - values).abs() <= 2.0**-24 * values).all()


def test_the_model_keeps_its_weights_and_the_result_is_the_same_each_time() -> None:
    model = linear()
    first, again = (TorchReference(model, torch.float32, seed=0).expect([X]) for _ in range(2))
    assert model.weight[1, 0].item() == np.float32(0.3)
    assert (first[0].tolerance > 0).all()
    assert np.array_equal(again[0].tolerance, first[0].tolerance)


def test_a_module_that_stands_at_two_places_is_moved_once_and_put_back() -> None:
    torch.manual_seed(0)
    act = HP1()
    model = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act)
    copy = NudgedModel(model, torch.float64, np.random.default_rng(0))
    before = {name: value.clone() for name, value in copy.model.state_dict().items() if isinstance(value, Tensor)}
    copy.draw()
    state = copy.model.state_dict()
    assert copy.model[1] is copy.model[3]
    assert not any(torch.equal(state[name], value) for name, value in before.items() if "denominator" in name)
    copy.restore()
    assert all(torch.equal(copy.model.state_dict()[name], value) for name, value in before.items())


def test_draws_are_shared_and_one_copy_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine batches in three groups: two draws for each group, and a float64 copy only while a group is measured."""
    draws, alive, most = 0, weakref.WeakSet[NudgedModel](), 0

    class Counted(NudgedModel):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            gc.collect()
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

        def draw(self) -> None:
            nonlocal draws
            draws += 1
            super().draw()

    monkeypatch.setattr(torch_reference, "NudgedModel", Counted)
    monkeypatch.setattr(torch_reference, "AT_ONCE", 5)  # each batch has two numbers
    model = linear()
    reference = TorchReference(model, torch.float32, seed=0)
    assert reference.single.weight.data_ptr() == model.weight.data_ptr()
    kept = []
    for found in reference.expect_all([(str(n), (X * n,)) for n in range(1, 10)]):
        gc.collect()
        assert len(alive) == 0
        kept.append(found)
    assert [float(k[0].values[0, 0]) for k in kept] == [pytest.approx(model(X * n)[0, 0].item()) for n in range(1, 10)]
    assert (draws, most) == (3 * policies.NUDGES, 1)


def test_a_buffer_that_forward_writes_to_is_not_the_models_own() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(1, 2))

        def forward(self, x: Tensor) -> Tensor:
            self.last.copy_(x)
            return x * 2

    model = Writes()
    TorchReference(model, torch.float32, seed=0).expect([X])
    assert torch.equal(model.last, torch.zeros(1, 2))


def test_a_batch_that_the_model_cannot_take_is_named() -> None:
    reference = TorchReference(linear(), torch.float32, seed=0)
    with pytest.raises(ValidationError, match=r"cannot run on images 2 \(float32 \(1, 3\)\): RuntimeError"):
        list(reference.expect_all([("images 1", (X,)), ("images 2", (torch.ones(1, 3),))]))
