"""Pass: each activation, with the affine before it, -> one ``FixedOrthogonalPade`` node and its function body."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.collapse.approximation.approximate import ApproximationBudget, Choices
from opau_onnx.collapse.passes import standard
from opau_onnx.collapse.passes.absorb import Absorbed, absorb
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.core.frozen import Frozen, trim
from opau_onnx.core.plans import Evaluation
from opau_onnx.core.spec import DOMAIN, FIXED_OP_TYPE, OPSET_VERSION
from opau_onnx.graph.frozen import freeze
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import node_attributes, opau_nodes, overload_name
from opau_onnx.graph.operators import Constants

TENSORS = ("numerator", "denominator", "scale", "shift")


def replace_activations(model: ir.Model, allowed: ApproximationBudget | None = None) -> list[CollapsedActivation]:
    """Replace every activation in the graph and its subgraphs.

    Args:
        model: is changed.
        allowed: how much the activations may change; None: by rounding only.

    Raises:
        CollapseError: as :func:`opau_onnx.collapse.passes.standard.replace_activations`.
    """
    nodes = opau_nodes(model)
    frozen = [freeze(node) for node in nodes]
    choices = Choices(allowed, family_only=True)
    # Before anything is absorbed: the ranges are those of the activation's own input and result.
    chosen = [choices.of(trim(before), node) for node, before in zip(nodes, frozen, strict=True)]
    found = []
    for node, before, choice in zip(nodes, frozen, chosen, strict=True):
        absorbed = absorb(node, choice.frozen)
        scheme = Choices().of(trim(absorbed.frozen.wide()), node).scheme
        replaced = _replace(model, node, before, absorbed, scheme)
        found.append(replace(replaced, approximation=choice.approximation))
    model.graph.opset_imports[DOMAIN] = OPSET_VERSION
    return found


def _replace(model: ir.Model, node: ir.Node, before: Frozen, absorbed: Absorbed, scheme: Evaluation) -> CollapsedActivation:
    x, result, frozen = absorbed.x, absorbed.result, absorbed.frozen
    kind = x.dtype or node.inputs[0].dtype or result.dtype or standard.WIDE[frozen.compute]
    attributes = _attributes(frozen)
    body = _function(model, x, frozen, scheme, kind)
    model.functions.setdefault(body.identifier(), body)
    new = ir.node(FIXED_OP_TYPE, [x], attributes=attributes, domain=DOMAIN, overload=body.overload, name=node.name)
    module = node.metadata_props.get(MODULE, "")
    new.metadata_props[MODULE] = module
    out, name = new.outputs[0], str(result.name)
    out.type, out.shape = ir.TensorType(kind), result.shape
    last = result.producer()
    assert last is not None
    assert last.graph is not None
    last.graph.insert_before(last, new)
    ir.convenience.replace_all_uses_with(result, out, replace_graph_outputs=True)
    for old in _in_order([node, *absorbed.nodes]):
        assert old.graph is not None
        old.graph.remove(old, safe=True)
    out.name = name
    operators = sum(n.op_type != "Constant" for n in body)
    taken = tuple(n.op_type for n in absorbed.nodes)
    return CollapsedActivation(
        str(node.name), module, before, frozen, scheme, operators, str(x.name), name, kind, x.shape, taken
    )


def _in_order(nodes: list[ir.Node]) -> list[ir.Node]:
    """Readers before what they read, as nodes may be removed."""
    left, found = list(nodes), []
    while left:
        free = [n for n in left if not any(use.node in left for out in n.outputs for use in out.uses())]
        found += free
        left = [n for n in left if n not in free]
    return found


def _attributes(frozen: Frozen) -> dict[str, Any]:
    tensors = dict(zip(TENSORS, (frozen.numerator, frozen.denominator, *(frozen.affine or ())), strict=False))
    stored = {name: ir.tensor(v.astype(frozen.compute)) for name, v in tensors.items() if v.size}
    return {**node_attributes(frozen.config), **stored}


class _InFunction(Constants):
    """Functions have no initializers: constants are nodes."""

    def __init__(self) -> None:
        super().__init__(ir.Graph([], [], nodes=[]))
        self.nodes: list[ir.Node] = []

    def value(self, array: Any) -> ir.Value:
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            node = ir.node("Constant", [], attributes={"value": ir.tensor(array)})
            self.nodes.append(node)
            self.known[key] = node.outputs[0]
        return self.known[key]


def _function(model: ir.Model, like: ir.Value, frozen: Frozen, scheme: Evaluation, kind: ir.DataType) -> ir.Function:
    constants = _InFunction()
    x = ir.Value(name="X", type=ir.TensorType(kind), shape=like.shape)
    new = standard.write(constants, x, frozen, scheme, kind)
    nodes = [*constants.nodes, *new]
    for i, node in enumerate(nodes):
        node.outputs[0].name = f"{node.op_type.lower()}_{i}"
    result = new[-1].outputs[0]
    result.name = "Y"
    x.shape = None  # a body is for X of any shape that its constants fit
    graph = ir.Graph([x], [result], nodes=nodes, opset_imports={"": model.graph.opset_imports[""]}, name=FIXED_OP_TYPE)
    types = dict.fromkeys(TENSORS, ir.AttributeType.TENSOR) | {
        "basis": ir.AttributeType.STRING, "form": ir.AttributeType.STRING, "degrees": ir.AttributeType.INTS,
        "groups": ir.AttributeType.INT, "axis": ir.AttributeType.INT,
    }  # fmt: skip
    declared = [ir.Attr(name, types[name], None) for name in _attributes(frozen)]
    return ir.Function(DOMAIN, FIXED_OP_TYPE, _overload(frozen, scheme, kind, like), graph=graph, attributes=declared)


def _overload(frozen: Frozen, scheme: Evaluation, kind: ir.DataType, like: ir.Value) -> str:
    """Tells bodies apart: configuration, and a digest of everything that a body depends on."""
    shape = None if like.shape is None or frozen.config.groups == 1 else (like.shape.rank(), frozen.config.axis)
    text = repr((frozen.key(), scheme.key(), str(kind), shape))
    return f"{overload_name(frozen.config)}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
