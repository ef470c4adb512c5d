"""Models that are called with keywords and nested inputs, and that return what their authors like."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.export import app
from opau_onnx.errors import ExportError
from opau_onnx.nn import HP1

X = torch.randn(3, 4)


class ModelOutput(OrderedDict[str, Any]):
    """As transformers' results."""


@dataclasses.dataclass
class Result:
    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None
    loss: float = 0.5


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


class Net(nn.Module):
    """Returns what ``how`` makes of y and 2 y."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.how = nn.Sequential(nn.Linear(4, 8), HP1(), nn.Linear(8, 2)), how

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        return self.how(y, 2 * y, x)


RESULTS: list[tuple[Any, list[str], list[str]]] = [
    (lambda y, z, x: ModelOutput(logits=y, hidden=z), ["logits", "hidden"], []),
    (lambda y, z, x: ModelOutput(logits=y, past=None, layers=(z, y)), ["logits", "layers.0", "layers.1"], ["'past' is None"]),
    (lambda y, z, x: Result(y), ["logits"], ["'hidden' is None", "'loss' is 0.5"]),
    (lambda y, z, x: Result(y, (z, y)), ["logits", "hidden.0", "hidden.1"], ["'loss' is 0.5"]),
    (lambda y, z, x: Pair(y, None), ["first"], ["'second' is None"]),
    (lambda y, z, x: (y, None), ["output"], ["'1' is None"]),
    (lambda y, z, x: (None, y, 3, z), ["output_0", "output_1"], ["'0' is None", "'2' is 3"]),
    (lambda y, z, x: [y, (z, [y])], ["output_0", "output_1.0", "output_1.1.0"], []),
    (lambda y, z, x: {"a": {"b": y, "c": z}, "d": "text"}, ["a.b", "a.c"], ["'d' is 'text'"]),
    (lambda y, z, x: {"a": y, "a.b": z, "x": x}, ["a", "a.b", "x"], []),
    (lambda y, z, x: {"body.1.numerator": y}, ["body.1.numerator"], []),
    (lambda y, z, x: {"body.0.weight": y, "linear": z}, ["body.0.weight", "linear"], []),
    (lambda y, z, x: (y, y, x), ["output_0", "output_1", "output_2"], []),
]


@pytest.mark.parametrize("case", range(len(RESULTS)))
def test_results(case: int, tmp_path: Path) -> None:
    how, names, told = RESULTS[case]
    model = Net(how).eval()
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", X)
    assert result.equal, result.validation
    assert [any(part in note for note in result.source.notes) for part in told] == [True] * len(told)
    assert len(result.source.notes) == len(told)
    assert result.activations[0]["module"] == "body.1"
    session = ort.InferenceSession(tmp_path / "m.onnx")
    got = [v.name for v in session.get_outputs()]
    assert len(set(got)) == len(got) == len(names)
    if case not in (9, 12):  # a tensor that is returned twice, or unchanged, has one name
        assert got == names
    y = model.body(X).detach().numpy()
    values = session.run(None, {"x": X.numpy()})
    assert any(np.allclose(v, y, atol=1e-5) for v in values)
    verified = opau_onnx.verify_model(model, tmp_path / "m.onnx", X, runtimes=["ort-function"], layerwise=True)
    assert verified.equal, verified.findings


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = Net(lambda y, z, x: Result(y)).eval()
    opau_onnx.export_model(model, tmp_path / "m.onnx", X)
    assert isinstance(model(X), Result)
    assert type(model) is Net


def test_a_result_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="returns dict without a tensor in it"):
        opau_onnx.export_model(Net(lambda y, z, x: {"n": 3}).eval(), tmp_path / "m.onnx", X)


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), HP1(), nn.Linear(8, 2))

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Any = None, *, scale: float = 1.0) -> Tensor:
        y: Tensor = self.body(x) * scale
        y = y if mask is None else y * mask
        if isinstance(bias, dict):
            bias = sum(bias["list"]) + bias["one"]
        return y if bias is None else y + bias


BIAS = torch.randn(3, 2)
CALLS: list[tuple[Any, list[str]]] = [
    ({"x": X, "bias": BIAS}, ["x", "bias"]),
    ((X, None, BIAS), ["x", "bias"]),
    ({"bias": BIAS, "x": X}, ["bias", "x"]),
    ({"x": X, "scale": 2.0}, ["x"]),
    ((X.numpy(), None, BIAS.numpy()), ["x", "bias"]),
    (X.numpy(), ["x"]),
    ((X, None, {"list": [BIAS, BIAS], "one": BIAS}), ["x", "bias_0", "bias_1", "bias_2"]),
    ({"x": X, "mask": (X > 0)[:, :2], "bias": {"list": (BIAS,), "one": 3.0}}, ["x", "mask", "bias_0"]),
]


@pytest.mark.parametrize("case", range(len(CALLS)))
def test_calls(case: int, tmp_path: Path) -> None:
    inputs, names = CALLS[case]
    result = opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", inputs)
    assert result.equal, result.validation
    session = ort.InferenceSession(tmp_path / "m.onnx")
    assert [v.name for v in session.get_inputs()] == names
    assert all(v.shape[0] == "batch" for v in session.get_inputs())
    assert opau_onnx.validate_model(Called().eval(), tmp_path / "m.onnx", inputs).equal


def test_constants_are_told(tmp_path: Path) -> None:
    result = opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", {"x": X, "scale": 2.0})
    assert result.source.notes == ("the input 'scale' is fixed to 2.0",)


def test_wrong_calls(tmp_path: Path) -> None:
    for inputs in ({"x": X, "bais": BIAS}, {"y": X}):
        with pytest.raises(ExportError, match="the model takes x, mask, bias, scale"):
            opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", inputs)
    for inputs in (None, (), {}, (None, 3)):
        with pytest.raises(ExportError, match="needs example inputs, tensors"):
            opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", inputs)


@pytest.mark.parametrize("name", ["fp16", "half", "FP16", torch.float16])
def test_short_names_of_dtypes(name: Any, tmp_path: Path) -> None:
    result = opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", X, dtype=name)
    assert result.dtype == "float16"
    assert repr(result) == f"ExportResult({str(result.path)!r}, equal, float16, opset 20, 1 learned activations)"
    assert len(repr(result.validation)) + len(repr(result.source)) < 300
    with pytest.raises(ExportError, match="dtype is 'fp8'; expected one of float32"):
        opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", X, dtype="fp8")


def test_names_and_axes_of_the_user(tmp_path: Path) -> None:
    options: Any = {
        "input_names": ["image", "body.0.weight"],
        "output_names": ["class"],
        "dynamic_axes": {"x": [0], "bias": [0]},
    }
    result = opau_onnx.export_model(Called().eval(), tmp_path / "m.onnx", {"x": X, "bias": BIAS}, **options)
    assert result.equal
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [v.name for v in graph.input] == ["image", "body.0.weight"]
    assert [v.name for v in graph.output] == ["class"]
    assert "body.0.weight.1" in {v.name for v in graph.initializer}
    for wrong, said in ((["a"], "1 input names are given"), (["a", "a"], "'a' is given to two"), (["a", ""], "2 input names")):
        with pytest.raises(ExportError, match=said):
            opau_onnx.export_model(Called().eval(), tmp_path / "n.onnx", {"x": X, "bias": BIAS}, input_names=wrong)


def test_command(tmp_path: Path) -> None:
    command = ["models/lenet_hp1_fashion_mnist.pt", str(tmp_path / "m.onnx"), "--input-names", "pixels", "--output-names", "y"]
    done = CliRunner().invoke(app, [*command, "--dtype", "fp16", "--no-validate"])
    assert done.exit_code == 0, done.output
    assert [v.name for v in ort.InferenceSession(tmp_path / "m.onnx").get_inputs()] == ["pixels"]


class Positive(nn.Module):
    def forward(self, d: Tensor) -> Tensor:
        return nn.functional.softplus(d)


def test_computed_coefficients_and_hooks(tmp_path: Path) -> None:
    model = Net(lambda y, z, x: y).eval()
    nn.utils.parametrize.register_parametrization(model.body[1], "denominator", Positive())
    model.body[1].register_forward_hook(lambda module, args, y: 3 * y)
    model.eval()
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", X)
    assert result.equal, result.validation
    verified = opau_onnx.verify_model(model, tmp_path / "m.onnx", X, runtimes=["ort-function"], layerwise=True)
    assert verified.equal, verified.findings
    with torch.no_grad():
        model.body[1].parametrizations.denominator.original[1] *= 1.001
    assert opau_onnx.validate_model(model, tmp_path / "m.onnx", X).equal is False
    assert not opau_onnx.verify_model(model, tmp_path / "m.onnx", X, runtimes=["ort-function"]).equal
