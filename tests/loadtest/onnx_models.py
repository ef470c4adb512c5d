"""ONNX files of what the fake servers compute."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def twice(path: Path, *, shift: float = 1.0, output: str = "y") -> Path:
    """y = 2 x + shift, top = the place of each row's largest value: (N, 4) -> (N, 4), (N,)."""
    scalar = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("a", 2.0), ("b", shift))]
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Add", ["m", "b"], [output]),
        helper.make_node("ArgMax", ["x"], ["top"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "twice", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("top", TensorProto.INT64, ["N"]),
        ],
        scalar,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
