"""Small models to serve, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def write(path: Path, nodes: list[onnx.NodeProto], inputs: list, outputs: list, weights: dict | None = None) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(w), n) for n, w in (weights or {}).items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, shape: list, element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def linear(path: Path, slope: float = 2.0, features: int = 4) -> Path:
    """y = slope * x + 1, row by row."""
    nodes = [helper.make_node("Mul", ["x", "a"], ["ax"]), helper.make_node("Add", ["ax", "b"], ["y"])]
    weights = {"a": np.float32(slope), "b": np.float32(1)}
    return write(path, nodes, [value("x", ["batch", features])], [value("y", ["batch", features])], weights)


def gather(path: Path) -> Path:
    """A table of 4 entries: an index outside of it makes onnxruntime fail."""
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"])]
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    inputs, outputs = [value("i", ["batch"], TensorProto.INT64)], [value("y", ["batch", 2])]
    return write(path, nodes, inputs, outputs, {"table": table})


def mixing(path: Path) -> Path:
    """Each row less the mean of the batch: rows that depend on each other."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return write(path, nodes, [value("x", ["batch", 3])], [value("y", ["batch", 3])], {"axes": np.array([0])})


def fixed(path: Path) -> Path:
    """One row at a time, by its shape."""
    return write(path, [helper.make_node("Neg", ["x"], ["y"])], [value("x", [1, 3])], [value("y", [1, 3])])


def identity(path: Path, element: int, shape: list | None = None) -> Path:
    """Any data type, unchanged."""
    shape = shape or ["batch", 3]
    return write(path, [helper.make_node("Identity", ["x"], ["y"])], [value("x", shape, element)], [value("y", shape, element)])


def pair(path: Path) -> Path:
    """Two inputs, two outputs; the second's trailing axis is open."""
    nodes = [helper.make_node("Add", ["a", "a"], ["sum"]), helper.make_node("Neg", ["b"], ["negative"])]
    inputs = [value("a", ["batch", 2]), value("b", ["batch", "length"])]
    return write(path, nodes, inputs, [value("sum", ["batch", 2]), value("negative", ["batch", "length"])])


def slow(path: Path, size: int = 700) -> Path:
    """y = x through many large products: a row takes tens of milliseconds."""
    nodes, name = [], "x0"
    nodes.append(helper.make_node("MatMul", ["x", "widen"], ["x0"]))
    for i in range(1, 12):
        nodes.append(helper.make_node("MatMul", [f"x{i - 1}", "eye"], [f"x{i}"]))
        name = f"x{i}"
    nodes.append(helper.make_node("MatMul", [name, "narrow"], ["y"]))
    widen = np.zeros((4, size), np.float32)
    widen[:, :4] = np.eye(4)
    weights = {"eye": np.eye(size, dtype=np.float32), "widen": widen, "narrow": widen.T.copy()}
    return write(path, nodes, [value("x", ["batch", 400, 4])], [value("y", ["batch", 400, 4])], weights)
