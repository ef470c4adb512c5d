"""Nodes that compute over the rows of a batch, found in an ONNX graph without running it.

A batching server must not put requests of different clients through them. What is found here needs no luck: a probe with
numbers may miss a scale that is computed over the batch, as in dynamic quantization.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import numpy_helper

from opau_onnx.core.spec import DOMAIN

WHOLE = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
"""Operators whose scale is computed over a whole tensor."""
AXIS = {
    "ArgMax": 0, "ArgMin": 0, "Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "TopK": -1, "LpNormalization": -1, "Unique": None,
}  # fmt: skip
"""Operators that compute along one axis, by the attribute's default; None: over all."""
NOT_VALUES = {"Shape", "Size"}
"""Operators whose results do not depend on a tensor's values."""
Dims = Sequence[onnx.TensorShapeProto.Dimension]


def over_rows(model: onnx.ModelProto) -> str | None:
    """Why rows of a batch depend on each other, by the graph alone; None where no node shows it, which proves nothing.

    Args:
        model: its weights in other files need not be there.
    """
    return next(iter(_Scan(_inlined(model)).found()), None)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all functions but ours, which work element by element, written out."""
    others = [(f.domain, f.name) for f in model.functions if f.domain != DOMAIN]
    return onnx.inliner.inline_selected_functions(model, others) if others else model


class _Scan:
    """One pass over a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._dims: dict[str, Dims] | None = None
        stored = {*self._constants, *(t.values.name for t in model.graph.sparse_initializer)}
        self._inputs = [value for value in model.graph.input if value.name not in stored]

    def found(self) -> Iterator[str]:
        """The reasons, in the order of the nodes."""
        return self._nodes(self._graph.node, {value.name for value in self._inputs})

    def _nodes(self, nodes: Iterable[onnx.NodeProto], variable: set[str]) -> Iterator[str]:
        """Reasons among nodes; ``variable`` are the names computed from inputs, and grows."""
        for node in nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
            reached = [name for name in node.input if name in variable]
            inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
            before = len(variable)
            for graph in inner:
                if reached:
                    variable.update(value.name for value in graph.input)
                yield from self._nodes(graph.node, variable)
            if reached and self._over_rows(node):
                yield f"node {node.name or node.output[0]!r} ({node.op_type}) computes over the rows of a batch"
            if (reached and node.op_type not in NOT_VALUES) or (inner and len(variable) > before):
                variable.update(node.output)

    def _over_rows(self, node: onnx.NodeProto) -> bool:
        kind, first = node.op_type, node.input[0] if node.input else ""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if kind in WHOLE:
            return True
        if kind == "BatchNormalization":
            return bool(attributes.get("training_mode", 0))
        if kind == "Scan":
            return self._scans(node, attributes)
        if kind == "MeanVarianceNormalization":
            axes: Sequence[int] | None = attributes.get("axes", (0, 2, 3))
        elif kind.startswith("Reduce"):
            axes = self._reduced(node, attributes)
        elif kind == "CumSum":
            axes = self._constant(node.input[1])
        elif kind in AXIS:
            axis = attributes.get("axis", AXIS[kind])
            axes = None if axis is None else (axis,)
        else:
            return False
        return self._any_axis(first) if axes is None else any(self._of_rows(first, axis) for axis in axes)

    def _reduced(self, node: onnx.NodeProto, attributes: dict[str, object]) -> Sequence[int] | None:
        """Axes of a reduction; None: all, or those that only a run shows."""
        axes = attributes.get("axes")
        if len(node.input) > 1 and node.input[1]:
            axes = self._constant(node.input[1])
        if not axes and attributes.get("noop_with_empty_axes"):
            return ()
        return tuple(axes) if isinstance(axes, list | tuple) and axes else None

    def _scans(self, node: onnx.NodeProto, attributes: dict[str, object]) -> bool:
        """True where a state goes along the rows."""
        count = attributes["num_scan_inputs"]
        assert isinstance(count, int)
        scanned = node.input[len(node.input) - count :]
        axes = attributes.get("scan_input_axes") or [0] * count
        assert isinstance(axes, list)
        return len(node.input) > count and any(self._of_rows(name, axis) for name, axis in zip(scanned, axes, strict=True))

    def _constant(self, name: str) -> tuple[int, ...] | None:
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return tuple(int(value) for value in numpy_helper.to_array(tensor).ravel())

    def _any_axis(self, name: str) -> bool:
        """True unless every size of a tensor is known, so that none is the batch's."""
        dims = self._shapes().get(name)
        return dims is None or any(not dim.HasField("dim_value") for dim in dims)

    def _of_rows(self, name: str, axis: int) -> bool:
        """True where an axis may be the batch's: by its name, or as the first one of unknown size."""
        dims = self._shapes().get(name)
        if dims is None:
            return axis == 0
        axis = axis + len(dims) if axis < 0 else axis
        if axis >= len(dims) or dims[axis].HasField("dim_value"):
            return False
        batches = {value.type.tensor_type.shape.dim[0].dim_param for value in self._inputs if _axes(value)}
        return dims[axis].dim_param in batches if dims[axis].dim_param else axis == 0

    def _shapes(self) -> dict[str, Dims]:
        """Known shapes by tensor; computed when first asked for, since most graphs never ask."""
        if self._dims is None:
            graph = onnx.shape_inference.infer_shapes(self._model).graph
            values = (*graph.input, *graph.value_info, *graph.output)
            self._dims = {v.name: v.type.tensor_type.shape.dim for v in values if v.type.tensor_type.HasField("shape")}
        return self._dims


def _axes(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.shape.dim)
