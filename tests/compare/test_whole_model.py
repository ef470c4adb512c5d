"""The comparison of whole models: what it finds where names and metadata say nothing, and when it must stay silent."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import opau_onnx
from opau_onnx import ExportResult, ToleranceConfig
from opau_onnx.compare.batches import _random
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade

EXAMPLE = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), HP1(), nn.Linear(16, 16), HP2(), nn.Linear(16, 3)).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "net.onnx"
    assert opau_onnx.export_model(network(), path, EXAMPLE).equal
    return path


def checked(path: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> ExportResult:
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, folder / "changed.onnx")
    return opau_onnx.validate_model(network(), folder / "changed.onnx", EXAMPLE)


def anonymous(proto: onnx.ModelProto) -> None:
    """As a tool leaves it that renames: nothing says which module a node was."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.name = ""
        for i, name in enumerate(node.input):
            node.input[i] = name.replace("numerator", "n").replace("denominator", "d")
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("numerator", "n").replace("denominator", "d")


def test_a_file_without_names_is_equal_still(exported: Path, tmp_path: Path) -> None:
    found = checked(exported, tmp_path, anonymous)
    assert found.equal
    assert [a.coefficients for a in found.validation.activations] == ["not found in the model"] * 2


@pytest.mark.parametrize(("name", "index"), [*(("1.n", i) for i in range(6)), *(("1.d", i) for i in range(4))])
def test_one_percent_of_a_coefficient_shows_in_the_outputs(exported: Path, tmp_path: Path, name: str, index: int) -> None:
    def change(proto: onnx.ModelProto) -> None:
        anonymous(proto)
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[index] *= 1.01
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    found = checked(exported, tmp_path, change)
    assert found.equal is False
    assert not all(c.equal for c in found.validation.outputs)


def swap_overloads(proto: onnx.ModelProto) -> None:
    first, second = (n for n in proto.graph.node if n.domain)
    first.overload, second.overload = second.overload, first.overload


def another_basis(proto: onnx.ModelProto) -> None:
    """The attribute alone: the body is right, but a kernel would compute another function."""
    node = next(n for n in proto.graph.node if n.domain)
    next(a for a in node.attribute if a.name == "basis").s = b"legendre"


@pytest.mark.parametrize("change", [swap_overloads, another_basis])
def test_a_node_that_is_not_what_its_module_is(change: Callable[..., None], exported: Path, tmp_path: Path) -> None:
    found = checked(exported, tmp_path, change)
    assert found.equal is False
    assert found.validation.activations[0].equal is False


class Labels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() * 1000).argmax(dim=-1) + 5000


def test_integers_have_no_tolerance(tmp_path: Path) -> None:
    """Eight roundings of float16 at 5000 would be 20: another label."""
    result = opau_onnx.export_model(Labels().eval(), tmp_path / "m.onnx", EXAMPLE, dtype="float16")
    assert result.equal
    assert {c.atol for c in result.validation.outputs} == {0.0}
    proto = onnx.load(result.path)
    for tensor in proto.graph.initializer:
        if 5000 in numpy_helper.to_array(tensor).reshape(-1):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(proto, tmp_path / "off.onnx")
    assert opau_onnx.validate_model(Labels().eval(), tmp_path / "off.onnx", EXAMPLE).equal is False


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), HP1(groups=4, axis=-1), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(4), dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(x)


class Bottleneck(nn.Module):
    """All outputs hang on one mean, whose rounding error may happen to be none in one runtime and not in another."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(6, 6), OrthogonalPade("laguerre", (7, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x)) * x.mean()


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), HP2(groups=4), nn.Conv2d(4, 4, 3, groups=2), PAU("C"), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 4), OrthogonalPade("chebyshev_u", (16, 16)), nn.Linear(4, 4),
    )  # fmt: skip


def deep() -> nn.Module:
    layers = [part for i in range(6) for part in (nn.Linear(6, 6), OrthogonalPade("legendre", (2 * i, 16 - 2 * i), "abs_sum"))]
    return nn.Sequential(*layers)


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attention, (2, 5, 8)), "bottleneck": (Bottleneck, (3, 6)), "conv": (conv, (2, 1, 8, 8)),
    "deep": (deep, (3, 6)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_no_false_alarm(kind: str, seed: int, tmp_path: Path) -> None:
    """One export, then several sets of random inputs."""
    torch.manual_seed(seed)
    make, shape = KINDS[kind]
    model, example = make().eval(), torch.randn(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", example, options=ToleranceConfig(seed=seed))
    for more in range(100, 103):
        assert result.equal, [c for c in (*result.validation.activations, *result.validation.outputs) if not c.equal]
        result = opau_onnx.validate_model(model, result.path, example, options=ToleranceConfig(seed=seed + more, samples=5))
    assert result.equal


@pytest.mark.parametrize("example", [[0.0, 0.0], [3.0, 3.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_random_inputs_are_finite_and_spread_whatever_the_example(example: list[float]) -> None:
    x: Any = _random(torch.tensor([example] * 2), 16, 1.0, torch.Generator().manual_seed(0))
    assert x.shape == (16, 2)
    assert x.isfinite().all()
    assert 0.5 < x.std() < 2
