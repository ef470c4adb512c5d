"""What stands in the exported graph: names, shared and separate coefficients, functional use, several inputs and outputs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from opau_onnx import Config, ExportResult, export_model
from opau_onnx.core.spec import DOMAIN
from opau_onnx.nn import HP1, HP2, orthogonal_pade
from tests.export import nets


def export(model: nn.Module, path: Path, inputs: Any, **options: Any) -> ExportResult:
    nets.seeded(2)
    result = export_model(model.eval(), path / "m.onnx", inputs, **options)
    assert result.equal, result.validation
    return result


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.linear = HP1(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(self.act(x)))


def test_a_module_used_twice(tmp_path: Path) -> None:
    result = export(Twice(), tmp_path, nets.example(2, 4))
    assert [a["node"] for a in result.activations] == ["act/OrthogonalPade", "act/OrthogonalPade_1"]
    assert nets.coefficient_names(result.path) == [("act.numerator", "act.denominator")] * 2
    assert len(onnx.load(result.path).functions) == 1


def test_one_module_at_two_places_stays_one(tmp_path: Path) -> None:
    act = HP1()
    result = export(nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act), tmp_path, nets.example(2, 4))
    assert [a["module"] for a in result.activations] == ["1", "3"]
    assert nets.coefficient_names(result.path) == [("1.numerator", "1.denominator")] * 2
    assert set(nets.initializers(result.path)) == {"0.weight", "0.bias", "2.weight", "2.bias", "1.numerator", "1.denominator"}


def test_one_parameter_in_two_modules_stays_one(tmp_path: Path) -> None:
    first = HP1()
    second = copy.deepcopy(first)
    second.numerator = first.numerator
    result = export(nn.Sequential(nn.Linear(4, 4), first, nn.Linear(4, 4), second), tmp_path, nets.example(2, 4))
    assert nets.coefficient_names(result.path) == [("1.numerator", "1.denominator"), ("1.numerator", "3.denominator")]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_equal_coefficients_of_different_modules_stay_apart(dtype: str, tmp_path: Path) -> None:
    """They can be edited one by one; the exporter merges initializers that hold the same values."""
    act = HP1()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), copy.deepcopy(act), nn.Linear(4, 4), HP1(groups=2))
    result = export(model, tmp_path, nets.example(2, 4), dtype=dtype)
    assert nets.coefficient_names(result.path) == [(f"{i}.numerator", f"{i}.denominator") for i in (1, 3, 5)]


class ModuleNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"first act": HP1(), "é": HP2()})
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), HP1(degrees=(3, 2)))])

    def forward(self, x: Tensor) -> Tensor:
        for part in (*self.stem.values(), *self.blocks):
            x = part(x)
        return x


def test_nodes_are_named_after_their_modules(tmp_path: Path) -> None:
    result = export(ModuleNames(), tmp_path, nets.example(2, 4))
    modules = ["stem.first act", "stem.é", "blocks.0.1"]
    assert [a["module"] for a in result.activations] == modules
    nodes = [n for n in onnx.load(result.path).graph.node if n.domain == DOMAIN]
    assert [n.name for n in nodes] == [f"{m}/OrthogonalPade" for m in modules]
    assert [n.output[0] for n in nodes[:-1]] == [f"{n.name}:Y" for n in nodes[:-1]]
    assert nets.coefficient_names(result.path) == [(f"{m}.numerator", f"{m}.denominator") for m in modules]
    assert [a.coefficients for a in result.validation.activations] == ["equal"] * 3


class Functional(nn.Module):
    """A user's own module around the functional form; ``how`` it comes by its coefficients."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.linear = how, nn.Linear(4, 4)
        self.c = nn.Parameter(torch.linspace(0.1, 1.0, 4))
        self.register_buffer("d", torch.linspace(0.3, 0.7, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.how == "parameters":
            c, d = self.c, self.d
        elif self.how == "folded":
            c, d = self.c * 2, self.d.abs()
        elif self.how == "constants":
            c, d = torch.tensor([1.0, 2.0, 3.0, 0.1]), torch.tensor([0.5, 0.25])
        else:
            c, d = self.c * x.mean(), self.d * 2
        return orthogonal_pade(x, c, d, Config("legendre", "abs_terms", (3, 2)))


@pytest.mark.parametrize(("how", "coefficients"), [
    ("parameters", "equal"), ("folded", "not found in the model"), ("constants", "not found in the model"),
    ("from the input", "computed at run time"),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_functional_use(how: str, coefficients: str, dtype: str, tmp_path: Path) -> None:
    result = export(Functional(how), tmp_path, nets.example(3, 4), dtype=dtype)
    assert [a.coefficients for a in result.validation.activations] == [coefficients]
    if how == "parameters":  # in full precision also beside float16 weights
        assert nets.coefficient_names(result.path) == [("c", "d")]
        assert np.array_equal(nets.initializers(result.path)["c"], torch.linspace(0.1, 1.0, 4).numpy())


class Mixed(nn.Module):
    """Integer, floating and boolean inputs; a nested result that hands an input through."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.act = nn.Embedding(10, 4), HP1(groups=2, axis=-1)

    def forward(self, tokens: Tensor, x: Tensor, mask: Tensor) -> Any:
        hidden = self.act(self.embedding(tokens) + x.unsqueeze(1)) * mask.unsqueeze(-1)
        return hidden, {"x": x, "next": tokens + 1}


def test_several_inputs_and_outputs_of_several_types(tmp_path: Path) -> None:
    inputs = (torch.randint(0, 10, (2, 5)), nets.example(2, 4), torch.ones(2, 5, dtype=torch.bool))
    model = Mixed()
    both = {0: "batch", 1: "time"}
    axes: dict[str | int, dict[int, str]] = {"tokens": both, 1: {0: "batch"}, "mask": both}
    result = export(model, tmp_path, inputs, dynamic_axes=axes)
    assert nets.signature(result.path) == {
        "tokens": ["batch", "time"], "x": ["batch", 4], "mask": ["batch", "time"],
        "output_0": ["batch", "time", 4], "output_1.x": ["batch", 4], "output_1.next": ["batch", "time"],
    }  # fmt: skip
    other = (torch.randint(0, 10, (3, 7)), nets.example(3, 4), torch.rand(3, 7) < 0.5)
    hidden, rest = model(*other)
    for got, want in zip(nets.run(result.path, *other), (hidden, rest["x"], rest["next"]), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=0, atol=1e-5)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = HP1()

    def forward(self, output: Tensor) -> dict[str, Tensor]:
        return {"z": self.act(output), "a": output * 2, "output": output + 1}


def test_outputs_are_named_after_the_keys_of_a_dict(tmp_path: Path) -> None:
    """In the dict's own order; a name that an input has is not given twice."""
    result = export(Named(), tmp_path, nets.example(2, 4))
    names = [v.name for v in onnx.load(result.path).graph.output]
    assert names[:2] == ["z", "a"]
    assert names[2] != "output"


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.linear = HP1(), HP2(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda v: self.a(v), lambda v: self.b(self.linear(v)), (x,))


def test_activations_in_the_branches_of_a_condition(tmp_path: Path) -> None:
    result = export(Branches(), tmp_path, nets.example(3, 4))
    assert nets.coefficient_names(result.path) == [("a.numerator", "a.denominator"), ("b.numerator", "b.denominator")]
    assert [(a.module, a.coefficients) for a in result.validation.activations] == [("a", "equal"), ("b", "equal")]
    assert "If" in {n.op_type for n in onnx.load(result.path).graph.node}


def test_a_model_without_learned_activations(tmp_path: Path) -> None:
    result = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), tmp_path, nets.example(2, 4))
    assert result.activations == []
    model = onnx.load(result.path)
    assert not model.functions
    assert [o.domain for o in model.opset_import] == [""]


def test_an_activation_alone(tmp_path: Path) -> None:
    result = export(HP1(), tmp_path, nets.example(2, 4))
    assert nets.coefficient_names(result.path) == [("numerator", "denominator")]


def test_a_scalar_input(tmp_path: Path) -> None:
    result = export(HP1(), tmp_path, torch.tensor(0.5))
    assert nets.signature(result.path) == {"input": [], "output": []}
