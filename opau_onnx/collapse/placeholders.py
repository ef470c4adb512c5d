"""Functions of one input that stand for activations while onnxruntime quantizes.

Each is the activation's own body with its coefficients as constants: the model computes what it did, and a tool that puts
quantization around the inputs and outputs of nodes leaves the coefficients alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from opau_onnx.errors import CollapseError
from opau_onnx.graph import function
from opau_onnx.graph.nodes import in_double, opau_nodes, read_coefficients, read_config

DOMAIN, NAME = "opau.quantization", "OpauActivation"


@dataclass(frozen=True)
class Placeholder:
    """An activation that is put back later, and its coefficients by the names of the initializers."""

    node: ir.Node
    coefficients: list[tuple[str, Any]]


def insert_placeholders(model: ir.Model) -> dict[str, Placeholder]:
    """Replace each activation of the main graph by a function of one input; by name of the call, what it stands for."""
    kept = {}
    for i, node in enumerate(n for n in opau_nodes(model) if n.graph is model.graph):
        name = f"opau_{i}"
        body = _with_constants(model, node, name)
        model.functions[body.identifier()] = body
        kept[name] = Placeholder(node, _coefficients(node))
        _swap(node, ir.node(NAME, node.inputs[:1], domain=DOMAIN, overload=name, name=name))
    for unused in [k for k, v in model.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del model.graph.initializers[unused]  # onnxruntime would warn of them
    model.graph.opset_imports[DOMAIN] = 1
    return kept


def _coefficients(node: ir.Node) -> list[tuple[str, Any]]:
    found = read_coefficients(node)
    if found is None:
        raise CollapseError(f"the coefficients of {node.name} are computed at run time; only constants can be collapsed")
    names = [str(v.name) if v.is_initializer() else f"{v.name}/stored" for v in node.inputs[1:3] if v is not None]
    return list(zip(names, found, strict=True))


def _with_constants(model: ir.Model, node: ir.Node, name: str) -> ir.Function:
    known = model.functions.get(node.op_identifier())
    if known is None:
        known = function.build(read_config(node), model.graph.opset_imports[""] or 0, double=in_double(node))
    graph = ir.from_proto(ir.to_proto(known)).graph  # a copy
    for i, (_, array) in reversed(list(enumerate(_coefficients(node), start=1))):
        constant = ir.node("Constant", [], attributes={"value": ir.tensor(array)}, name=f"{name}_{i}")
        constant.outputs[0].name = f"{name}_{i}"
        ir.convenience.replace_all_uses_with(graph.inputs[i], constant.outputs[0])
        graph.insert_before(graph[0], constant)
        del graph.inputs[i]
    return ir.Function(DOMAIN, NAME, name, graph=graph, attributes=[])


def _swap(old: ir.Node, new: ir.Node) -> None:
    """``new`` in the place of ``old``; its result bears the same name, type and shape."""
    before, after = old.outputs[0], new.outputs[0]
    assert old.graph is not None
    after.type, after.shape, name = before.type, before.shape, before.name
    old.graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    old.graph.remove(old, safe=True)
    after.name = name


def remove_placeholders(model: ir.Model, activations: dict[str, Placeholder]) -> None:
    """The activations in the places of the calls; what :func:`insert_placeholders` gave says which."""
    for call in [n for n in model.graph if n.domain == DOMAIN]:
        kept = activations[str(call.name)]
        node = kept.node
        constants = [_initializer(model, name, array) for name, array in kept.coefficients]
        again = ir.node(
            node.op_type, [*call.inputs, *constants], attributes=dict(node.attributes), domain=node.domain,
            overload=node.overload, name=node.name, metadata_props=dict(node.metadata_props),
        )  # fmt: skip
        _swap(call, again)
    for key in [k for k in model.functions if k[0] == DOMAIN]:
        del model.functions[key]
    model.graph.opset_imports.pop(DOMAIN, None)


def _initializer(model: ir.Model, name: str, array: Any) -> ir.Value:
    if name not in model.graph.initializers:
        stored = ir.tensor(array, name=name)
        made = ir.Value(name=name, type=ir.TensorType(stored.dtype), shape=ir.Shape(stored.shape), const_value=stored)
        model.graph.register_initializer(made)
    return model.graph.initializers[name]
