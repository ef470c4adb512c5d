"""Pass: in a quantized model, DequantizeLinear -> activation -> QuantizeLinear -> a look-up in a table of all codes.

The table holds, for each of the 256 (65,536) codes, what these three nodes give in onnxruntime, or in onnx's ReferenceEvaluator
where onnxruntime's CPU cannot run them: so the result is the same, bit for bit, ties of the rounding included.
:mod:`opau_onnx.collapse.lookup_check` holds the table in the written file against the nodes again, and both against the oracle.

A result that something else reads besides, or that is not quantized, gets a table of float numbers instead. What does not read
dequantized numbers is evaluated as in the standard form, and the record says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.collapse.passes import standard
from opau_onnx.collapse.passes.lookup_sites import NoTable, QuantizedActivation, cut, find
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.compare.opening import open_model
from opau_onnx.core.frozen import Frozen
from opau_onnx.core.plans import Evaluation
from opau_onnx.errors import CollapseError
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.graph.frozen import freeze
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.graph.operators import Constants


@dataclass(frozen=True)
class Table:
    """How an activation is evaluated: by looking up its codes.

    Attributes:
        size: codes.
        rows: different tables, for runs of channels.
        source, target: types of the codes and of what the table holds.
        runtime: what ran the nodes that the table is taken from.
    """

    size: int
    rows: int
    source: str
    target: str
    runtime: str

    def __str__(self) -> str:
        many = f"{self.rows} tables" if self.rows > 1 else "table"
        return f"{many} of {self.size}, {self.source} to {self.target}"

    def evaluate(self, ops: Any, frozen: Frozen, x: Any) -> Any:
        """A table has no value between its codes."""
        raise NotImplementedError("a table reads codes, not numbers")

    def key(self) -> tuple[Any, ...]:
        """See :class:`~opau_onnx.core.plans.Evaluation`."""
        return (self.size, self.rows, self.source, self.target)


@dataclass(frozen=True)
class Untabled:
    """How an activation is evaluated that cannot become a table.

    Attributes:
        scheme: as in the standard form.
        reason: why there is no table.
    """

    scheme: Evaluation
    reason: str

    def __str__(self) -> str:
        return f"{self.scheme}; NO TABLE: {self.reason}"

    def evaluate(self, ops: Any, frozen: Frozen, x: Any) -> Any:
        """As the scheme does."""
        return self.scheme.evaluate(ops, frozen, x)

    def key(self) -> tuple[Any, ...]:
        """See :class:`~opau_onnx.core.plans.Evaluation`."""
        return self.scheme.key()


@dataclass(frozen=True, eq=False)
class TabledActivation(CollapsedActivation):
    """Record of one replaced activation, or of one of the QuantizeLinear that read it.

    Attributes:
        site: what stood there.
        original: the nodes that stood there, as a model of their own: see :func:`opau_onnx.collapse.passes.lookup_sites.cut`.
        which: the output of ``original`` that the table holds.
    """

    site: QuantizedActivation | None = None
    original: ir.Model | None = None
    which: int = 1


def replace_activations(model: ir.Model, allowed: Any = None) -> list[CollapsedActivation]:
    """Replace every activation in the graph and its subgraphs.

    Args:
        model: a quantized model (QDQ form); is changed.
        allowed: must be None: a table has no error that could be traded.

    Raises:
        CollapseError: no activation reads dequantized numbers, coefficients that are computed at run time, or a tolerance. The
            model is unchanged then.
    """
    if allowed is not None:
        raise CollapseError("the lut form is exact; it takes no tolerance. Use --form standard or fused with --tolerance")
    nodes = opau_nodes(model)
    frozen = {node: freeze(node) for node in nodes}
    sites, reasons = _sites(nodes)
    if not sites:
        raise CollapseError(
            f"no activation can become a table: {'; '.join(sorted(set(reasons.values())))}. The lut form is for quantized "
            "models, in which a DequantizeLinear stands before each activation: quantize the model first (opau-collapse "
            "--quantize --data SAMPLES does), or use --form standard"
        )
    computed = {node: _tables(model, site) for node, site in sites.items()}
    constants, found = Constants(model.graph), dict[ir.Node, list[CollapsedActivation]]()
    for node, site in sites.items():
        found[node] = list(_replace(constants, site, frozen[node], *computed[node]))
    for (node, reason), other in zip(reasons.items(), standard.replace_activations(model), strict=True):
        found[node] = [replace(other, scheme=Untabled(other.scheme, reason))]
    return [record for node in nodes for record in found[node]]


def _sites(nodes: list[ir.Node]) -> tuple[dict[ir.Node, QuantizedActivation], dict[ir.Node, str]]:
    """(what can become a table, why others cannot)."""
    sites, reasons = {}, {}
    for node in nodes:
        try:
            sites[node] = find(node)
        except NoTable as reason:
            reasons[node] = str(reason)
    return sites, reasons


def _tables(model: ir.Model, site: QuantizedActivation) -> tuple[ir.Model, list[Any], str]:
    """(the nodes as a model, what each of its outputs holds for :meth:`Site.inputs`, what ran it)."""
    original = cut(model, site)
    codes = [torch.from_numpy(site.inputs())]
    runtime = open_model(original, codes)
    return original, runtime.run(codes), runtime.description


def _replace(
    constants: Constants, site: QuantizedActivation, before: Frozen, original: ir.Model, values: list[Any], runtime: str
) -> Iterator[CollapsedActivation]:
    """Write a look-up for what the activation, or each QuantizeLinear behind it, gives; remove what nothing reads then."""
    node = site.node
    module, codes = node.metadata_props.get(MODULE, ""), site.before.node.inputs[0]
    assert codes is not None
    for i, last in enumerate([part.node for part in site.after] or [node]):
        which = 2 + i if site.after else 1
        result, kind = last.outputs[0], original.graph.outputs[which].dtype
        assert kind is not None
        table, offsets = _distinct(site.rows(stored(values[which], kind)))
        new = write(constants, codes, table, offsets, site)
        scheme = Table(table.shape[1], len(table), _name(site.before.codes), _name(kind), runtime)
        _put(new, last, kind)
        yield TabledActivation(
            str(node.name), module, before, before, scheme, len(new), str(codes.name), str(new[-1].outputs[0].name), kind,
            result.shape, site=site, original=original, which=which,
        )  # fmt: skip
    for old in (node, site.before.node):
        if old.graph is not None and not old.outputs[0].uses() and not old.outputs[0].is_graph_output():
            old.graph.remove(old, safe=True)


def _name(kind: ir.DataType) -> str:
    return NAMES.get(kind) or kind.name.lower()


def stored(values: Any, kind: ir.DataType) -> Any:
    """Values of a type in numpy's; onnxruntime's bfloat16 comes as float32."""
    return values.astype(ml_dtypes.bfloat16) if kind == ir.DataType.BFLOAT16 else values


def _distinct(rows: Any) -> tuple[Any, Any]:
    """(rows that differ, for each channel its row)."""
    kept: dict[bytes, int] = {}
    where = [kept.setdefault(row.tobytes(), len(kept)) for row in rows]
    return rows[[where.index(i) for i in range(len(kept))]], np.array(where)


def write(constants: Constants, codes: ir.Value, table: Any, row: Any, site: QuantizedActivation) -> list[ir.Node]:
    """The nodes of a look-up; the last one's output is the result.

    GatherElements on the flat tensor, not Gather: in onnxruntime it takes a quarter of the time. Negative codes count from
    the table's end, which is laid out for it; where channels have tables of their own they stand one after the other.

    Args:
        constants: where initializers go.
        codes: what is looked up.
        table: shape (rows, codes), in the order of :meth:`Site.inputs`.
        row: for each channel its row.
        site: whose channels.
    """
    rows, size = table.shape
    cast = ir.node("Cast", [codes], attributes={"to": int(ir.DataType.INT32)})
    nodes, index = [cast], cast.outputs[0]
    if rows > 1 and site.channels is not None:
        axis, rank, number = site.channels
        signed = np.issubdtype(np.dtype(site.before.codes.numpy()), np.signedinteger)
        # Signed codes of a row lie around its middle.
        table = np.roll(table, size // 2, axis=1) if signed else table
        starts = (row * size + (size // 2 if signed else 0)).astype(np.int32)
        start = constants.value(starts.reshape([number, *[1] * (rank - axis - 1)]))
        nodes.append(ir.node("Add", [index, start]))
        index = nodes[-1].outputs[0]
    stored = constants.value(table.reshape(-1))
    flat = codes.shape is not None and codes.shape.rank() == 1
    if flat:
        return [*nodes, ir.node("GatherElements", [stored, index])]
    shape = ir.node("Shape", [codes])
    line = ir.node("Reshape", [index, constants.value(np.array([-1], dtype=np.int64))])
    found = ir.node("GatherElements", [stored, line.outputs[0]])
    back = ir.node("Reshape", [found.outputs[0], shape.outputs[0]], attributes={"allowzero": 1})
    return [shape, *nodes, line, found, back]


def _put(new: list[ir.Node], last: ir.Node, kind: ir.DataType) -> None:
    """The new nodes in the place of ``last``, whose result they give under its name."""
    graph, result, name = last.graph, last.outputs[0], str(last.outputs[0].name)
    assert graph is not None
    for i, node in enumerate(new):
        node.name = f"{last.name or name}/{node.op_type}_{i}"
        node.outputs[0].name = f"{name}/{node.op_type}_{i}"
    out = new[-1].outputs[0]
    out.type, out.shape = ir.TensorType(kind), result.shape
    graph.insert_before(last, new)
    ir.convenience.replace_all_uses_with(result, out, replace_graph_outputs=True)
    graph.remove(last, safe=True)
    out.name = name
