"""ONNX models of one node, for each subject that onnxruntime runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, OP_TYPE, OPSET_VERSION, Config
from opau_onnx.graph import function
from opau_onnx.graph.nodes import node_attributes, overload_name
from opau_onnx.nn import OrthogonalPade

OPSET = 20
"""The first with Gelu; its default is the exact one (approximate="none")."""
TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "float64": ir.DataType.DOUBLE,
}


def standard(op_type: str, dtype: str) -> bytes:
    """A model y = op(x) of a standard operator, x of shape (n,)."""
    x = _input(dtype)
    return _model(x, ir.node(op_type, [x]), [], [])


def activation(module: OrthogonalPade, dtype: str) -> bytes:
    """A model of one OPAU node with its function body, x of shape (n,), the coefficients constant."""
    config = module.config
    exact = np.float64 if dtype == "float64" else np.float32
    x, stored = _input(dtype), []
    for name, parameter in (("numerator", module.numerator), ("denominator", module.denominator)):
        tensor = ir.tensor(parameter.detach().double().numpy().astype(exact), name=name)
        stored.append(ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor))
    node = ir.node(OP_TYPE, [x, *stored], attributes=node_attributes(config), domain=DOMAIN, overload=overload_name(config))
    return _model(x, node, stored, [config])


def _input(dtype: str) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(TYPES[dtype]), shape=ir.Shape(["n"]))


def _model(x: ir.Value, node: ir.Node, stored: list[ir.Value], configs: list[Config]) -> bytes:
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    imports = {"": OPSET, DOMAIN: OPSET_VERSION}
    graph = ir.Graph([x], [y], nodes=[node], initializers=stored, name="opau_bench", opset_imports=imports)
    bodies = [function.build(config, OPSET, double=x.dtype == ir.DataType.DOUBLE) for config in configs]
    model = ir.Model(graph, ir_version=10, functions=bodies)
    content: Any = ir.to_proto(model)
    return bytes(content.SerializeToString())
