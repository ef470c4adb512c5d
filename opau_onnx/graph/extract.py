"""One part of an ONNX graph as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, OP_TYPE
from opau_onnx.errors import ValidationError
from opau_onnx.graph import function
from opau_onnx.graph.nodes import in_double, read_config


def extract(
    model: ir.Model,
    entry: ir.Value,
    results: Sequence[ir.Value],
    shape: Sequence[int],
    *,
    dtype: ir.DataType | None = None,
    constants: Mapping[ir.Value, ir.TensorProtocol] | None = None,
) -> ir.Model:
    """The nodes between a value and others that are computed from it and from constants alone, as a model.

    Works in branches and loops too, where :func:`onnx_ir.convenience.extract` refuses values of the graph around them.
    Functions go along; the body of an activation that the model has lost is built again.

    Args:
        model: is left alone.
        entry: becomes the input.
        results: become the outputs, in order.
        shape: of the input.
        dtype: of the input; None for that of ``entry``, or of the first result.
        constants: tensors that take the place of the model's.

    Raises:
        ValidationError: a result depends on more than the input and constants.
    """
    kind = dtype or entry.dtype or results[0].dtype or ir.DataType.FLOAT
    x = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(tuple(shape)))
    copies: dict[ir.Value, ir.Value] = {entry: x}
    stored: list[ir.Value] = []
    nodes = []
    for node in _between(model, entry, results):
        inputs = [None if v is None else _copied(v, copies, stored, constants or {}) for v in node.inputs]
        copy = ir.node(
            node.op_type, inputs, attributes=dict(node.attributes), domain=node.domain, overload=node.overload, name=node.name,
            num_outputs=len(node.outputs),
        )  # fmt: skip
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, copies[old] = f"v{len(copies)}", new
        nodes.append(copy)
    outputs = []
    for value in results:
        copies[value].type = value.type or ir.TensorType(kind)
        outputs.append(copies[value])
    functions = _functions(model, nodes)
    imports = {**model.graph.opset_imports}
    imports |= {n.domain: 1 for n in nodes if n.domain not in imports}
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=stored, name="part", opset_imports=imports)
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


def _between(model: ir.Model, entry: ir.Value, results: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes in the order of the graph; Constant nodes are taken as tensors."""
    wanted: set[ir.Node] = set()
    pending = list(results)
    while pending:
        value = pending.pop()
        if value is entry or ir.convenience.get_const_tensor(value) is not None:
            continue
        node = value.producer()
        if node is None or any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise ValidationError(f"its result depends on {value.name!r}, which is neither its input nor a constant")
        if node not in wanted:
            wanted.add(node)
            pending += [v for v in node.inputs if v is not None]
    return [node for node in model.graph.all_nodes() if node in wanted]


def _copied(
    value: ir.Value,
    copies: dict[ir.Value, ir.Value],
    stored: list[ir.Value],
    constants: Mapping[ir.Value, ir.TensorProtocol],
) -> ir.Value:
    if value not in copies:
        tensor = constants[value] if value in constants else ir.convenience.get_const_tensor(value)
        assert tensor is not None
        kept = ir.tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=f"c{len(stored)}")
        made = ir.Value(name=kept.name, type=ir.TensorType(kept.dtype), shape=ir.Shape(kept.shape), const_value=kept)
        stored.append(made)
        copies[value] = made
    return copies[value]


def _functions(model: ir.Model, nodes: Sequence[ir.Node]) -> list[ir.Function]:
    """Those that the nodes call, and those that these call."""
    found: dict[ir.OperatorIdentifier, ir.Function] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        key = node.op_identifier()
        if key in found:
            continue
        body = model.functions.get(key)
        if body is None and (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            body = function.build(read_config(node), model.graph.opset_imports.get("", 0), double=in_double(node))
            body.overload = node.overload
        if body is not None:
            found[key] = body
            pending += list(body)
    return list(found.values())
