"""Each collapsed activation by itself: its nodes, cut out of the file, against the oracle on hard inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.collapse.passes.standard import Replaced
from opau_onnx.collapse.plan_search import hard_inputs
from opau_onnx.compare.activations import DENSE, WELL_CONDITIONED, ActivationCheck, grid, shaped, tolerance
from opau_onnx.compare.arrays import to_numpy
from opau_onnx.compare.opening import open_model
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, compare
from opau_onnx.core import oracle
from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.graph.frozen import Frozen
from opau_onnx.nn.casting import DTYPES, dtype_name

AFFINE_ROUNDINGS = 4.0
"""Of scale x + shift, in units of the roundoff of both terms' sizes: two operations on constants that were rounded too."""


def check(model: ir.Model, replaced: Replaced) -> ActivationCheck:
    """The nodes that took an activation's place, run by onnxruntime (or by onnx's ReferenceEvaluator where that cannot).

    Args:
        model: the collapsed file, read again.
        replaced: which.

    Raises:
        ValidationError: the nodes are not in the file, or no runtime can run them.
    """
    dtype = DTYPES[NAMES[replaced.dtype]]
    # What was absorbed has no counterpart before: then the function is taken as it is meant now.
    function = replaced.frozen if replaced.absorbed else replaced.before
    near = torch.from_numpy(hard_inputs(replaced.frozen.wide())).to(dtype)
    config, channels = placed(function, replaced.shape)
    x, function = shaped(config, torch.cat([grid(dtype), near]), channels), replace(function, config=config)
    actual = open_model(cut(model, replaced, x), [x]).run([x])[0]
    kind, wide = dtype_name(dtype), to_numpy(x).astype(np.float64)
    at, known, slack = _known(function, wide)
    limit, usual = tolerance(known, kind) + slack, np.abs(at) <= DENSE
    if replaced.approximation is not None and replaced.approximation.bound:
        usual = (at >= replaced.approximation.low) & (at <= replaced.approximation.high)
        limit = _changed(limit, usual, replaced.approximation.tolerance)
    comparison = compare(
        f"{replaced.node} on {x.numel():,} inputs", known.value, actual, kind, atol=limit,
        usual=usual, well_conditioned=known.condition < WELL_CONDITIONED,
    )  # fmt: skip
    return ActivationCheck(replaced.node, replaced.module, replaced.before.config, "fixed", comparison, comparison.equal)


def _changed(limit: Any, inside: Any, tolerance: float) -> Any:
    """What an approximation may differ by: the tolerance within its range; beyond it only a NaN is judged."""
    return np.where(inside, limit + tolerance, np.inf)


def _known(function: Frozen, x: Any) -> tuple[Any, oracle.Evaluation, Any]:
    """(where it is evaluated, the oracle, what a rounding of the affine may change)."""

    def value(at: Any) -> oracle.Evaluation:
        return oracle.evaluate(function.config, at, function.numerator, function.denominator)

    if function.affine is None:
        return x, value(x), 0.0
    after = x.ndim - 1 - function.config.axis % x.ndim
    scale, shift = (v.astype(function.compute).astype(np.float64).reshape(-1, *[1] * after) for v in function.affine)
    with np.errstate(all="ignore"):
        at = scale * x + shift
        known = value(at)
        step = AFFINE_ROUNDINGS * UNIT_ROUNDOFF[function.compute] * (np.abs(scale * x) + np.abs(shift))
        moved = np.maximum(*(np.abs(value(at + s * step).value - known.value) for s in (-1, 1)))
        # Where the affine itself leaves the dtype, the activation is evaluated at infinity.
        beyond = np.isfinite(x) & (np.abs(scale * x) + np.abs(shift) > 0.99 * float(np.finfo(function.compute).max))
        return at, known, np.where(beyond, np.inf, np.where(np.isfinite(moved), moved, 0.0))


def placed(function: Frozen, shape: ir.Shape | None) -> tuple[Config, int]:
    """(configuration whose axis fits inputs that :func:`shaped` makes, number of channels) of nodes that take such a shape."""
    config = function.config
    if config.groups == 1:
        return config, 1
    rank = None if shape is None else shape.rank()
    axis = config.axis if rank is None or config.axis < 0 else config.axis - rank  # counted from the end: axes may come before
    size = None if shape is None else shape[axis]
    return replace(config, axis=axis), size if isinstance(size, int) else config.groups


def cut(model: ir.Model, replaced: Replaced, x: torch.Tensor, kind: ir.DataType | None = None) -> ir.Model:
    """The activation's nodes as a model of their own, whose input is of type ``kind`` where that is not its result's."""
    entry = ir.Value(name="x", type=ir.TensorType(kind or replaced.dtype), shape=ir.Shape(tuple(x.shape)))
    known: dict[str | None, ir.Value] = {replaced.input: entry}
    constants: dict[str, ir.Value] = {}
    nodes, functions = [], {}
    for node in _nodes(model, replaced):
        inputs = [known.get(v.name) or _constant(constants, v) for v in node.inputs if v is not None]
        copy = ir.node(
            node.op_type, inputs, attributes=dict(node.attributes), name=node.name, domain=node.domain, overload=node.overload
        )
        copy.outputs[0].name = node.outputs[0].name
        known[node.outputs[0].name] = copy.outputs[0]
        nodes.append(copy)
        if node.op_identifier() in model.functions:
            functions[node.op_identifier()] = model.functions[node.op_identifier()]
    result = known[replaced.output]
    result.type, result.shape = ir.TensorType(replaced.dtype), entry.shape
    domains = {"", *(n.domain for n in nodes)}
    graph = ir.Graph(
        [entry], [result], nodes=nodes, initializers=list(constants.values()), name="activation",
        opset_imports={domain: model.graph.opset_imports[domain] for domain in domains},
    )  # fmt: skip
    return ir.Model(graph, ir_version=model.ir_version, functions=list(functions.values()))


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
