"""The one reader of activation nodes, and one part of a graph as a model of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import opau_onnx
from opau_onnx.certify import activations as certified
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.errors import SpecError, ValidationError
from opau_onnx.graph.extract import extract
from opau_onnx.graph.frozen import freeze
from opau_onnx.graph.nodes import opau_nodes, read_coefficients, read_config
from opau_onnx.graph.save import serialized
from opau_onnx.nn import HP1, HP2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("nodes") / "net.onnx"
    net = nn.Sequential(nn.Linear(3, 4), HP1(), nn.Linear(4, 4), HP2()).eval()
    opau_onnx.export_model(net, path, torch.randn(2, 3), validate=False)
    return path


def with_constant_nodes(path: Path) -> onnx.ModelProto:
    """The coefficients in Constant nodes, as other tools write them."""
    model = onnx.load(path)
    ours = {name for node in model.graph.node if node.domain == "ai.opau" for name in node.input[1:]}
    kept = [t for t in model.graph.initializer if t.name not in ours]
    for tensor in [t for t in model.graph.initializer if t.name in ours]:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def in_a_branch(path: Path) -> onnx.ModelProto:
    """The whole graph in a branch of an If; initializers stay outside."""
    model = onnx.load(path)
    graph = model.graph
    then = helper.make_graph(list(graph.node), "then", [], list(graph.output))
    other = helper.make_graph([helper.make_node("Identity", ["zeros"], ["other"])], "else", [], [
        helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", 4])
    ])  # fmt: skip
    del graph.node[:]
    graph.initializer.append(helper.make_tensor("zeros", TensorProto.FLOAT, [1, 4], [0.0] * 4))
    graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    result = graph.output[0].name
    graph.node.append(helper.make_node("If", ["yes"], [f"{result}_chosen"], then_branch=then, else_branch=other))
    graph.output[0].name = f"{result}_chosen"
    return model


def as_external(path: Path, folder: Path) -> Path:
    out = folder / "external.onnx"
    onnx.save(onnx.load(path), out, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return out


@pytest.mark.parametrize("kind", ["initializers", "constants", "branch", "external"])
def test_every_reader_sees_the_same_coefficients(kind: str, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if kind == "external":
        path = as_external(exported, tmp_path)
    else:
        content = {"initializers": onnx.load, "constants": with_constant_nodes, "branch": in_a_branch}[kind](exported)
        path.write_bytes(content.SerializeToString())
    want = [read_coefficients(n) for n in opau_nodes(ir.load(exported))]
    got = [read_coefficients(n) for n in opau_nodes(ir.load(path))]
    assert len(got) == 2
    for one, other in zip(want, got, strict=True):
        assert one is not None
        assert other is not None
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    frozen = [freeze(n) for n in opau_nodes(ir.load(path))]
    certifiable = certified.read(path)
    assert [f.config for f in frozen] == [c.config for c in certifiable]
    assert all(np.array_equal(f.numerator, c.numerator) for f, c in zip(frozen, certifiable, strict=True))


@pytest.mark.parametrize("name", ["basis", "form", "degrees", "groups", "axis"])
def test_a_missing_attribute_is_named(name: str, exported: Path) -> None:
    node = opau_nodes(ir.load(exported))[0]
    del node.attributes[name]
    with pytest.raises(SpecError, match=f"no attribute '{name}'"):
        read_config(node)


@pytest.mark.parametrize(("name", "value"), [("degrees", [5]), ("degrees", [5, 4, 3]), ("basis", 3), ("groups", "many")])
def test_an_attribute_of_another_kind_is_refused(name: str, value: object, exported: Path) -> None:
    node = opau_nodes(ir.load(exported))[0]
    node.attributes[name] = ir.convenience.convert_attribute(name, value)
    with pytest.raises(SpecError):
        read_config(node)


@pytest.mark.parametrize("kind", ["plain", "constants", "branch", "no function"])
def test_an_activation_extracted(kind: str, exported: Path) -> None:
    content = {"constants": with_constant_nodes, "branch": in_a_branch}.get(kind, onnx.load)(exported)
    if kind == "no function":
        del content.functions[:]
    model = ir.from_proto(content)
    node = opau_nodes(model)[1]
    x = torch.linspace(-3, 3, 8).reshape(2, 4)
    part = extract(model, node.inputs[0], [node.outputs[0]], x.shape, dtype=ir.DataType.FLOAT)
    coefficients = read_coefficients(node)
    assert coefficients is not None
    module = opau_onnx.nn.OrthogonalPade.from_coefficients(*map(torch.from_numpy, coefficients), read_config(node))
    (y,) = OnnxRuntime(serialized(part)).run([x])
    np.testing.assert_allclose(y, module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_depends_on_more_is_not_extracted(exported: Path) -> None:
    model = ir.load(exported)
    first, second = opau_nodes(model)
    with pytest.raises(ValidationError, match="neither its input nor a constant"):
        extract(model, second.inputs[0], [first.outputs[0]], (2, 4))
