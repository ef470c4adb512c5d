"""Pass: each activation -> elementwise operators of ONNX's default domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.collapse.approximation.approximate import Approximation, ApproximationBudget, Choice, Choices
from opau_onnx.core.frozen import Frozen, trim
from opau_onnx.core.plans import Evaluation
from opau_onnx.core.spec import Config
from opau_onnx.graph.frozen import freeze
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.graph.operators import Constants, Value, Writer

WIDE = {"float32": ir.DataType.FLOAT, "float64": ir.DataType.DOUBLE}


@dataclass(frozen=True, eq=False)
class CollapsedActivation:
    """Record of one replaced activation.

    Attributes:
        node, module: its name, and that of the torch module.
        before: its configuration and coefficients, as they were.
        frozen: the same function, reduced.
        scheme: how it is evaluated.
        nodes: operators that took its place.
        input, output: names of the tensors.
        dtype, shape: of them; shape is None where it is not known.
        absorbed: operators around the activation that are part of ``frozen`` now.
        approximation: what was allowed to change; None where nothing was.
    """

    node: str
    module: str
    before: Frozen
    frozen: Frozen
    scheme: Evaluation
    nodes: int
    input: str
    output: str
    dtype: ir.DataType
    shape: ir.Shape | None
    absorbed: tuple[str, ...] = ()
    approximation: Approximation | None = None


def replace_activations(model: ir.Model, allowed: ApproximationBudget | None = None) -> list[CollapsedActivation]:
    """Replace every activation in the graph and its subgraphs.

    Args:
        model: is changed.
        allowed: how much the activations may change; None: by rounding only.

    Raises:
        CollapseError: coefficients that are computed at run time, or that the definition does not allow, or an activation that
            may change but that calibration has not seen. The model is unchanged then.
    """
    nodes = opau_nodes(model)
    frozen = [freeze(node) for node in nodes]
    choices = Choices(allowed)
    chosen = [choices.of(trim(before), node) for node, before in zip(nodes, frozen, strict=True)]
    constants = Constants(model.graph)
    return [_replace(constants, node, b, choice) for node, b, choice in zip(nodes, frozen, chosen, strict=True)]


def _replace(constants: Constants, node: ir.Node, before: Frozen, choice: Choice) -> CollapsedActivation:
    frozen, scheme = choice.frozen, choice.scheme
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    kind = x.dtype or result.dtype or WIDE[frozen.compute]
    new = write(constants, x, frozen, scheme, kind)
    last = new[-1].outputs[0]
    name, shape = str(result.name), result.shape
    graph, module = node.graph, node.metadata_props.get(MODULE, "")
    assert graph is not None
    for i, part in enumerate(new):
        part.name = f"{node.name}/{part.op_type}_{i}"
        part.outputs[0].name = f"{name}/{i}"
        part.metadata_props[MODULE] = module
    last.type, last.shape = ir.TensorType(kind), shape
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(result, last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    last.name = name
    return CollapsedActivation(
        str(node.name), module, before, frozen, scheme, len(new), str(x.name), name, kind, x.shape,
        approximation=choice.approximation,
    )  # fmt: skip


def write(constants: Constants, x: ir.Value, frozen: Frozen, scheme: Evaluation, kind: ir.DataType) -> list[ir.Node]:
    """The nodes that compute the activation of ``x``; the last one's output is the result.

    Args:
        constants: where initializers go.
        x: of dtype ``kind``, which is computed in float32 where it has 16 bits.
        frozen, scheme: what, and how.
    """
    config, wide = frozen.config, WIDE[frozen.compute]
    axis = _channels(config, x)
    plain = config.groups == 1 or axis is not None
    writer = Writer(constants, frozen.compute, _spreader(config, x, axis))
    source = Value(writer, x)
    if kind != wide:
        source = writer.call("Cast", source, to=int(wide))
    grouped = source if plain else _grouped(writer, config, source)
    y = scheme.evaluate(writer, frozen, grouped)
    if not plain:
        shape = _raw(writer, _node("Shape", [x]))
        y = _raw(writer, _node("Reshape", [y.value, shape.value], allowzero=1))
    if kind != wide:
        y = writer.call("Cast", y, to=int(kind))
    return writer.nodes


def _channels(config: Config, x: ir.Value) -> int | None:
    """The channel axis where rank and channels are known, so that coefficients can be spread over the channels."""
    if config.groups == 1 or x.shape is None or not -x.shape.rank() <= config.axis < x.shape.rank():
        return None
    axis = config.axis % x.shape.rank()
    return axis if isinstance(x.shape[axis], int) else None


def _spreader(config: Config, x: ir.Value, axis: int | None) -> Any:
    """(groups, 1) -> what broadcasts against x, or against its grouped form."""
    if axis is None or x.shape is None:
        return lambda values: values
    repeat, after = int(x.shape[axis]) // config.groups, x.shape.rank() - axis - 1
    return lambda values: np.repeat(values.reshape(-1), repeat).reshape(-1, *([1] * after))


def _node(op_type: str, inputs: list[ir.Value], **attributes: Any) -> ir.Node:
    return ir.node(op_type, inputs, attributes=attributes or None)


def _raw(writer: Writer, node: ir.Node) -> Value:
    """A node that is not elementwise."""
    writer.nodes.append(node)
    return Value(writer, node.outputs[0])


def _grouped(writer: Writer, config: Config, x: Value) -> Value:
    """x as (outer, groups, inner). The sizes are computed, not -1: that could not tell them in an empty tensor."""
    groups = writer.constants.value(np.array([config.groups], dtype=np.int64))
    flat = _raw(writer, _node("Flatten", [x.value], axis=config.axis)).value
    outer = _raw(writer, _node("Shape", [flat], start=0, end=1)).value
    rest = _raw(writer, _node("Shape", [flat], start=1, end=2)).value
    inner = _raw(writer, _node("Div", [rest, groups])).value
    shape = _raw(writer, _node("Concat", [outer, groups, inner], axis=0)).value
    return _raw(writer, _node("Reshape", [flat, shape], allowzero=1))
