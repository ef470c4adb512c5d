"""Tolerances by element: outputs that mix magnitudes, whole numbers and ties, NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import opau_onnx
from opau_onnx.collapse.files import compare_files
from opau_onnx.compare import policies
from opau_onnx.config import ToleranceConfig
from opau_onnx.errors import NotComparableError
from opau_onnx.nn import HP1

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, last: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.last = nn.Sequential(nn.Linear(6, 16), HP1()), nn.Linear(16, 9), last

    def forward(self, x: Tensor) -> Any:
        return self.last(self.head(self.body(x)))


def masked(y: Tensor) -> Tensor:
    return torch.where(torch.arange(9) % 3 == 0, -1e9, y)


def scaled(y: Tensor) -> Tensor:
    return y * torch.logspace(6, -3, 9)


def rectified(y: Tensor) -> Tensor:
    return torch.relu(y)


def probabilities(y: Tensor) -> Tensor:
    return torch.softmax(20 * y, -1)


def nothing(y: Tensor) -> Tensor:
    return y


def classes(y: Tensor) -> Tensor:
    return y.argmax(-1)


MIXED = [masked, scaled, rectified, probabilities, nothing, classes]


def turned(path: Path) -> None:
    """The last layer with all signs turned, in place."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("head."):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("last", MIXED, ids=lambda f: f.__name__)
def test_right_files_are_equal_and_wrong_ones_are_not(last: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    model = Net(last).eval()
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", X)
    assert result.equal, result.validation
    turned(tmp_path / "m.onnx")
    assert opau_onnx.validate_model(model, tmp_path / "m.onnx", X).equal is False
    assert not opau_onnx.verify_model(model, tmp_path / "m.onnx", X, runtimes=["ort-function"]).equal


@pytest.mark.parametrize("last", MIXED, ids=lambda f: f.__name__)
def test_between_two_files_too(last: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    right, wrong = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in (right, wrong):
        opau_onnx.export_model(Net(last).eval(), path, X, validate=False)
    turned(wrong)
    assert all(c.equal for c in compare_files(right, right, (X,), ToleranceConfig())[2])
    assert not all(c.equal for c in compare_files(right, wrong, (X,), ToleranceConfig())[2])


def softly(y: Tensor) -> Tensor:
    return torch.softmax(y, -1)


def little(y: Tensor) -> Tensor:
    return y * torch.logspace(0, -3, 9)


def zeros(y: Tensor) -> Tensor:
    return 0 * y


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("last", [softly, little, nothing, zeros], ids=lambda f: f.__name__)
def test_narrow_dtypes(last: Callable[[Tensor], Tensor], dtype: str, tmp_path: Path) -> None:
    result = opau_onnx.export_model(Net(last).eval(), tmp_path / "m.onnx", X, dtype=dtype)
    assert result.equal, result.validation


def test_one_small_column_that_is_wrong(tmp_path: Path) -> None:
    model = Net(scaled).eval()
    opau_onnx.export_model(model, tmp_path / "m.onnx", X)
    with torch.no_grad():
        model.head.bias[8] += 0.01  # 1e-5 of the output, beside columns of 1e6
    assert opau_onnx.validate_model(model, tmp_path / "m.onnx", X).equal is False


def test_pooling() -> None:
    rng = np.random.default_rng(0)
    moves = np.abs(rng.standard_normal(1000)) * 1e-7
    lucky, still, huge = moves.copy(), moves.copy(), moves.copy()
    lucky[0], still[0], huge[0] = 1e-9, 0.0, 100.0
    assert policies.pooled(lucky, 1e3)[0] == moves[1:].max()
    assert 0 < policies.pooled(still, 1e3)[0] < 1e-7, "as the least that moves"
    assert policies.pooled(huge, 1e3)[1:].max() == moves[1:].max(), "what is moved by much lends that to nothing else"
    assert policies.pooled(huge, 1e3)[0] == 100.0
    assert not policies.pooled(np.zeros(3), 1e3).any()
    assert policies.pooled(np.array([np.nan, np.inf, 1.0]), 1e3).tolist() == [1.0, 1.0, 1.0]
    assert policies.pooled(np.zeros((0, 3)), 1e3).shape == (0, 3)


def test_whole_numbers_have_no_tolerance() -> None:
    assert not policies.measured(np.full(3, 5.0), "", np.array([1.0, 2.0, 3.0])).any()
    moved = np.array([0.0, 0.0, 3.0])
    undecided = policies.undecided(moved, "")
    assert undecided.tolist() == [False, False, True]
    assert policies.undecided(moved, "float32") is None
    assert policies.undecided(np.zeros(3), "") is None
    with pytest.raises(NotComparableError, match="roundings alone change 2 of 3 whole numbers"):
        policies.undecided(np.array([0.0, 1.0, 1.0]), "")


def test_ties_are_left_out_and_other_classes_count(tmp_path: Path) -> None:
    class Tied(nn.Module):
        """Row 0 is a tie: two equal inputs through weights of equal size."""

        def __init__(self) -> None:
            super().__init__()
            self.act = HP1()
            self.weight = nn.Parameter(torch.eye(6) * 1.2345678)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x @ self.weight).argmax(-1)

    model, x = Tied().eval(), X.abs() + 0.1
    x[0] = 1.2345678
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", x)
    assert result.equal, result.validation
    assert result.validation is not None
    assert all(c.atol == 0.0 for c in result.validation.outputs)
    with torch.no_grad():
        model.weight[0, 0] = 5.0
    assert opau_onnx.validate_model(model, tmp_path / "m.onnx", x).equal is False


def test_nan_beside_nan_shows_nothing(tmp_path: Path) -> None:
    node = helper.make_node("Log", ["x"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 6]) for n in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(NotComparableError, match="the original file gives NaN for finite inputs"):
        compare_files(tmp_path / "m.onnx", tmp_path / "m.onnx", (-X.abs(),), ToleranceConfig())
