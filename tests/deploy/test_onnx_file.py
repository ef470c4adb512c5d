"""What a deployment reads from an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from opau_onnx.deploy.onnx_file import read
from opau_onnx.errors import DeployError
from opau_onnx.protocol.tensors import TensorSpec
from tests.serve import nets


def test_tensors_and_symbols(tmp_path: Path) -> None:
    found = read(nets.pair(tmp_path / "m.onnx"))
    assert found.inputs == (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, -1)))
    assert [spec.name for spec in found.outputs] == ["sum", "negative"]
    assert set(found.symbols.values()) == {"batch"}
    assert (found.opset, found.ir_version, found.contents.nodes) == (20, 10, ())
    assert read(nets.fixed(tmp_path / "f.onnx")).symbols == {"x": None, "y": None}


def test_initializers_are_no_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    inputs = [nets.value("x", ["n", 2]), nets.value("w", [2])]
    path = nets.write(tmp_path / "m.onnx", nodes, inputs, [nets.value("y", ["n", 2])], {"w": np.ones(2, np.float32)})
    assert [spec.name for spec in read(path).inputs] == ["x"]


def external(path: Path, location: str, *, where: str = "initializer") -> Path:
    """A model whose weight is in another file."""
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    stored, nodes = [weight], [helper.make_node("Add", ["x", "w"], ["y"])]
    if where == "constant":
        stored, nodes = [], [helper.make_node("Constant", [], ["w"], value=weight), *nodes]
    if where == "branch":
        inner = helper.make_graph(nodes, "then", [], [nets.value("y", ["n", 2])], [weight])
        stored = []
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    inputs = [nets.value("x", ["n", 2]), nets.value("c", [], TensorProto.BOOL)]
    graph = helper.make_graph(nodes, "g", inputs, [nets.value("y", ["n", 2])], stored)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_weights_in_other_files_are_found(tmp_path: Path, where: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8))
    assert read(external(tmp_path / "m.onnx", "data/w.bin", where=where)).external == ("data/w.bin",)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "a/../../secret", "a\\b", ""])
def test_a_file_cannot_name_files_of_the_machine(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DeployError, match="in its own folder"):
        read(external(folder / "m.onnx", location))


def test_nor_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(DeployError, match="a link to another folder"):
        read(external(folder / "m.onnx", "w.bin"))


def test_weights_with_the_name_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="the name of the model in the repository"):
        read(external(tmp_path / "m.onnx", "./model.onnx"))


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"w\.bin, which is not in"):
        read(external(tmp_path / "m.onnx", "w.bin"))


def graph_with(value: onnx.ValueInfoProto) -> bytes:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [nets.value("y", ["n"])])
    return bytes(helper.make_model(graph).SerializeToString())


def test_what_cannot_be_served(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(DeployError, match="cannot be read"):
        read(path)
    shapeless = onnx.ValueInfoProto(name="x")
    shapeless.type.tensor_type.elem_type = TensorProto.FLOAT
    cases = {
        b"no model": "is not an ONNX model",
        b"": "has no output",
        graph_with(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["n"])): "is no tensor",
        graph_with(nets.value("x", ["n"], TensorProto.STRING)): "a tensor of STRING",
        graph_with(shapeless): "does not say how many axes",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(DeployError, match=message):
            read(path)
