"""Models as people bring them: float32 inside, wrappers, tensors that autograd computed."""

from __future__ import annotations

import copy
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

import opau_onnx
from opau_onnx.errors import ExportError, ValidationError
from opau_onnx.nn import HP1
from opau_onnx.nn.copying import copy_module


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), HP1(), nn.Linear(8, 2))


class OwnState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.act, self.head = nn.LSTM(4, 8, batch_first=True), HP1(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(1, x.shape[0], 8), torch.zeros(1, x.shape[0], 8)
        return self.head(self.act(self.lstm(x, state)[0][:, -1]))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), HP1()

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.conv(image.to(torch.float32) / 255))


class OwnTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.table = HP1(), torch.eye(4) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x @ self.table)


class Checked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(4, 4), HP1()

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return self.act(self.layer(x.float()))


FLOAT32_INSIDE = [
    (OwnState, torch.randn(3, 5, 4)),
    (Pixels, torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)),
    (OwnTable, torch.randn(3, 4)),
    (Checked, torch.randn(3, 4)),
]


@pytest.mark.parametrize(("kind", "x"), FLOAT32_INSIDE, ids=lambda v: getattr(v, "__name__", ""))
def test_models_that_cannot_run_in_float64(kind: type[nn.Module], x: Tensor, tmp_path: Path) -> None:
    model = kind().eval()
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", x)
    assert result.equal, result.validation
    assert result.validation is not None
    assert "its float64 copy cannot run: " in result.validation.reference
    size = float(model(x).detach().abs().max())
    assert all(0 < c.atol < 1e-3 * max(size, 1.0) for c in result.validation.outputs)
    verified = opau_onnx.verify_model(model, tmp_path / "m.onnx", x, runtimes=["ort-function"], layerwise=True)
    assert verified.equal, verified.findings


@pytest.mark.parametrize(("kind", "x"), FLOAT32_INSIDE, ids=lambda v: getattr(v, "__name__", ""))
def test_a_wrong_file_of_them_is_different(kind: type[nn.Module], x: Tensor, tmp_path: Path) -> None:
    model = kind().eval()
    opau_onnx.export_model(model, tmp_path / "m.onnx", x)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(p for n, p in other.named_parameters() if n.endswith("numerator"))[1] *= 1.001
    assert opau_onnx.validate_model(other, tmp_path / "m.onnx", x).equal is False


def wrapped(how: str) -> nn.Module:
    model = small()
    if how == "compiled":
        return torch.compile(model, backend="eager")  # type: ignore[return-value]
    if how == "averaged":
        return torch.optim.swa_utils.AveragedModel(model)
    return nn.DataParallel(nn.DataParallel(model))


@pytest.mark.parametrize("how", ["compiled", "averaged", "parallel"])
def test_wrappers_are_taken_off(how: str, tmp_path: Path) -> None:
    result = opau_onnx.export_model(wrapped(how).eval(), tmp_path / "m.onnx", torch.randn(3, 4))
    assert result.equal
    assert result.activations[0]["module"] == "1"


def test_torchscript_modules_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(nn.Linear(4, 4).eval(), torch.randn(3, 4))
    with pytest.raises(ExportError, match="cannot export a TorchScript module"):
        opau_onnx.export_model(script, tmp_path / "m.onnx", torch.randn(3, 4))


def normed(model: nn.Sequential) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm's older form
        model[0] = nn.utils.weight_norm(model[0])
    return model


def pruned(model: nn.Sequential) -> Any:
    prune.l1_unstructured(model[0], "weight", 0.3)
    return model


@pytest.mark.parametrize("change", [normed, pruned])
def test_modules_that_hold_results_of_autograd(change: Any, tmp_path: Path) -> None:
    model, x = change(small()), torch.randn(3, 4)
    model(x).sum().backward()  # leaves a weight that has a history
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    model.eval()
    assert opau_onnx.export_model(model, tmp_path / "m.onnx", x).equal
    (y,) = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})
    np.testing.assert_allclose(y, functional.linear(model[1](model[0](x)), model[2].weight, model[2].bias).detach(), atol=1e-5)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = nn.Conv2d(1, 2, 3), HP1()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.act(self.conv(x))
        return y.float()


def test_autocast_inside_says_what_no_runtime_runs(tmp_path: Path) -> None:
    result = opau_onnx.export_model(Autocast().eval(), tmp_path / "m.onnx", torch.randn(2, 1, 8, 8))
    assert result.opset == 22, "older ones know no bfloat16"
    assert result.validation is not None
    assert "ReferenceEvaluator" in result.validation.runtime
    assert "onnxruntime's CPU has no Conv of bfloat16 (node 'node_" in result.validation.runtime


def test_where_no_runtime_runs_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, inputs: Any) -> Any:
        raise ValidationError("the ReferenceEvaluator cannot run the model: planted")

    monkeypatch.setattr("opau_onnx.compare.opening.Reference.run", fails)
    with pytest.raises(ValidationError, match=r"no runtime here .* no Conv of bfloat16 \(node .*planted.*autocast"):
        opau_onnx.export_model(Autocast().eval(), tmp_path / "m.onnx", torch.randn(2, 1, 8, 8))


class Locked(nn.Module):
    """Holds what cannot be copied, directly, in a list and in a hook."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.act = nn.Linear(4, 4), HP1()
        self.again = self.act
        self.lock, self.numbers = threading.Lock(), (i for i in range(3))
        self.kept = [self.layer, threading.Lock()]

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            y: Tensor = self.again(self.kept[0](self.act(self.layer(x))))
            return y


def test_modules_that_cannot_be_copied(tmp_path: Path) -> None:
    model, x = Locked().eval(), torch.randn(3, 4)
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.deepcopy(model)
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", x)
    assert result.equal, result.validation
    clone: Any = copy_module(model)
    assert clone.again is clone.act is not model.act
    assert clone.kept[0] is clone.layer is not model.layer
    assert clone.layer.weight is not model.layer.weight
    assert torch.equal(clone(x), model(x))
    with torch.no_grad():
        clone.layer.weight.zero_()
    assert model.layer.weight.any()
    half = opau_onnx.export_model(model, tmp_path / "h.onnx", x, dtype="fp16")
    assert half.equal
    assert model.layer.weight.dtype == torch.float32
