"""Each collapsed activation by itself: its nodes, cut out of the file, against the oracle on hard inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx import oracle
from opau_onnx.collapse.choose import hard_inputs
from opau_onnx.collapse.standard import Replaced
from opau_onnx.errors import ValidationError
from opau_onnx.parity.activations import DENSE, TORCH, WELL_CONDITIONED, ActivationCheck, grid, tolerance
from opau_onnx.parity.compare import compare
from opau_onnx.parity.runtimes import open_model, to_numpy
from opau_onnx.spec import Config


def check(model: ir.Model, replaced: Replaced) -> ActivationCheck:
    """The nodes that took an activation's place, run by onnxruntime (or by onnx's ReferenceEvaluator where that cannot).

    Args:
        model: the collapsed file, read again.
        replaced: which.

    Raises:
        ValidationError: the nodes are not in the file, or no runtime can run them.
    """
    dtype = TORCH[replaced.dtype]
    near = torch.from_numpy(hard_inputs(replaced.frozen)).to(dtype)
    x, config = shaped(replaced, torch.cat([grid(dtype), near]))
    actual = open_model(_model(model, replaced, x), [x]).run([x])[0]
    kind, wide = str(dtype).removeprefix("torch."), to_numpy(x).astype(np.float64)
    known = oracle.evaluate(config, wide, replaced.before.numerator, replaced.before.denominator)
    comparison = compare(
        f"{replaced.node} on {x.numel():,} inputs", known.value, actual, kind, atol=tolerance(known, kind),
        usual=np.abs(wide) <= DENSE, well_conditioned=known.condition < WELL_CONDITIONED,
    )  # fmt: skip
    return ActivationCheck(replaced.node, replaced.module, replaced.before.config, "fixed", comparison, comparison.equal)


def shaped(replaced: Replaced, values: torch.Tensor) -> tuple[torch.Tensor, Config]:
    """Inputs in a shape that the nodes take, in which every channel sees every value; and the configuration for that shape."""
    config = replaced.before.config
    if config.groups == 1:
        return values, config
    rank = None if replaced.shape is None else replaced.shape.rank()
    axis = config.axis if rank is None or config.axis < 0 else config.axis - rank  # counted from the end: axes may come before
    size = None if replaced.shape is None else replaced.shape[axis]
    channels = size if isinstance(size, int) else config.groups
    where = [1] * (axis if axis >= 0 else 0) + [channels] + [1] * (0 if axis >= 0 else -axis - 1)
    columns = values.reshape(-1, *[1] * len(where)).expand(-1, *where)
    x = columns.movedim(0, -1) if axis >= 0 else columns
    return x.contiguous(), replace(config, axis=axis)


def _model(model: ir.Model, replaced: Replaced, x: torch.Tensor) -> ir.Model:
    """The activation's nodes as a model of their own."""
    entry = ir.Value(name="x", type=ir.TensorType(replaced.dtype), shape=ir.Shape(tuple(x.shape)))
    known: dict[str | None, ir.Value] = {replaced.input: entry}
    constants: dict[str, ir.Value] = {}
    nodes = []
    for node in _nodes(model, replaced):
        inputs = [known.get(v.name) or _constant(constants, v) for v in node.inputs if v is not None]
        copy = ir.node(node.op_type, inputs, attributes=dict(node.attributes), name=node.name)
        copy.outputs[0].name = node.outputs[0].name
        known[node.outputs[0].name] = copy.outputs[0]
        nodes.append(copy)
    result = known[replaced.output]
    result.type, result.shape = entry.type, entry.shape
    graph = ir.Graph(
        [entry], [result], nodes=nodes, initializers=list(constants.values()), name="activation",
        opset_imports={"": model.graph.opset_imports[""]},
    )  # fmt: skip
    return ir.Model(graph, ir_version=model.ir_version)


def _constant(known: dict[str, ir.Value], value: ir.Value) -> ir.Value:
    if value.const_value is None:
        raise ValidationError(f"the collapsed activation reads {value.name!r}, which is no constant")
    tensor = ir.tensor(np.array(value.const_value.numpy()), name=value.name)
    made = ir.Value(name=value.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
    return known.setdefault(str(value.name), made)


def _nodes(model: ir.Model, replaced: Replaced) -> list[ir.Node]:
    """From the one that gives the activation's result back to its input, in the order of the graph."""
    every = list(model.graph.all_nodes())
    producers = {out.name: node for node in every for out in node.outputs}
    if replaced.output not in producers:
        raise ValidationError(f"{replaced.node} has no result {replaced.output!r} in the collapsed file")
    wanted: set[ir.Node] = set()
    pending = [producers[replaced.output]]
    while pending:
        node = pending.pop()
        if node not in wanted:
            wanted.add(node)
            names = [v.name for v in node.inputs if v is not None and v.name != replaced.input]
            pending += [producers[name] for name in names if name in producers]
    return [node for node in every if node in wanted]
