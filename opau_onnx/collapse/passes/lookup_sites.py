"""Quantization around an activation of a quantized model, and the activation with it as a model of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.graph.extract import extract
from opau_onnx.graph.nodes import read_config

CODES: dict[ir.DataType | None, Any] = {
    ir.DataType.UINT8: np.uint8,
    ir.DataType.INT8: np.int8,
    ir.DataType.UINT16: np.uint16,
    ir.DataType.INT16: np.int16,
}
"""Types of a quantized number that a table can list."""
QUANTIZER_DOMAINS = ("", "com.microsoft")
"""onnxruntime's own domain has 16-bit quantization before opset 21."""
DEFAULT_AXIS = 1


class NoTable(Exception):  # noqa: N818 - no error: the activation is evaluated in another way
    """Why an activation cannot become a table."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A DequantizeLinear or QuantizeLinear with constant parameters.

    Attributes:
        node: it.
        codes: type of the quantized numbers.
        scale: float64, exactly the file's, shape () or (channels,).
        zero_point: int64, likewise.
        axis: of the channels as the file counts it; None where one scale serves the tensor.
    """

    node: ir.Node
    codes: ir.DataType
    scale: Any
    zero_point: Any
    axis: int | None


@dataclass(frozen=True, eq=False)
class QuantizedActivation:
    """An activation that reads dequantized numbers.

    Attributes:
        node: the activation.
        before: what dequantizes.
        after: what quantizes the result; empty where something else reads it too, which then needs the float numbers.
        channels: (axis, rank, number) where scales or coefficients differ between channels; None where they do not.
    """

    node: ir.Node
    before: Linear
    after: list[Linear] = field(default_factory=list)
    channels: tuple[int, int, int] | None = None

    def inputs(self) -> Any:
        """Every code, for every channel: shape (codes,), or of the tensor's rank.

        Ordered by the bits taken as a whole number without sign: 0, 1, .. 127, -128, .. -1.
        """
        kind = np.dtype(CODES[self.before.codes])
        codes = np.arange(2 ** (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)
        if self.channels is None:
            return codes
        axis, rank, number = self.channels
        shape = [1] * rank
        shape[axis], shape[_other(axis, rank)] = number, codes.size
        along = [1] * rank
        along[_other(axis, rank)] = codes.size
        return np.ascontiguousarray(np.broadcast_to(codes.reshape(along), shape))

    def rows(self, values: Any) -> Any:
        """Results for :meth:`inputs` as (channels, codes)."""
        if self.channels is None:
            return values.reshape(1, -1)
        axis, _, number = self.channels
        return np.moveaxis(values, axis, 0).reshape(number, -1)


def _other(axis: int, rank: int) -> int:
    """The axis along which the codes are listed."""
    return 0 if axis else rank - 1


def find(node: ir.Node) -> QuantizedActivation:
    """Find the quantization around an activation.

    Raises:
        NoTable: it does not read dequantized numbers, or nothing that a table can do; the message says why.
    """
    x, y = node.inputs[0], node.outputs[0]
    producer = None if x is None else x.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.domain not in QUANTIZER_DOMAINS:
        raise NoTable("no DequantizeLinear before it")
    before = read(producer)
    uses = list(y.uses())
    own = all(u.idx == 0 and u.node.op_type == "QuantizeLinear" and u.node.domain in QUANTIZER_DOMAINS for u in uses)
    after: list[Linear] = []
    if uses and own and not y.is_graph_output():
        try:
            after = [read(u.node) for u in uses]
        except NoTable:  # then what quantizes stays, and the table holds the numbers that it reads
            after = []
    return QuantizedActivation(node, before, after, _channels(node, before, after))


def read(node: ir.Node) -> Linear:
    """The parameters of a DequantizeLinear or QuantizeLinear.

    Raises:
        NoTable: they are computed at run time, differ between blocks, or are of a type with too many or few codes.
    """
    name = node.op_type
    scale, zero_point = (_constant(node, i) for i in (1, 2))
    if scale is None or (zero_point is None and len(node.inputs) > 2 and node.inputs[2] is not None):
        raise NoTable(f"the scale or zero point of {name} is computed at run time")
    if _attribute(node, "block_size", 0):
        raise NoTable(f"the scales of {name} differ between blocks")
    codes = _codes(node, zero_point)
    if codes not in CODES:
        raise NoTable(f"{name} is of {codes.name if codes else 'unknown type'}; tables are made for 8 and 16 bits")
    zero_point = np.zeros(scale.shape, dtype=np.int64) if zero_point is None else zero_point
    axis = None if scale.size == 1 else _attribute(node, "axis", DEFAULT_AXIS)
    if axis is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(-1)[:1].reshape(())
    return Linear(node, codes, scale.astype(np.float64), zero_point.astype(np.int64), axis)


def _codes(node: ir.Node, zero_point: Any) -> ir.DataType | None:
    if zero_point is not None:
        return ir.DataType.from_numpy(zero_point.dtype)
    if node.op_type == "DequantizeLinear":
        return node.inputs[0].dtype if node.inputs[0] is not None else None
    return ir.DataType(_attribute(node, "output_dtype", 0) or ir.DataType.UINT8)


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _constant(node: ir.Node, index: int) -> Any:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.array(tensor.numpy())


def _channels(node: ir.Node, before: Linear, after: list[Linear]) -> tuple[int, int, int] | None:
    config = read_config(node)
    scales = [part for part in (before, *after) if part.axis is not None]
    axes = [part.axis for part in scales if part.axis is not None]
    if config.groups > 1:
        axes.append(config.axis)
    if not axes:
        return None
    shape = next((v.shape for v in (before.node.inputs[0], *node.inputs[:1], *node.outputs) if v and v.shape is not None), None)
    if shape is None:
        raise NoTable("scales or coefficients differ between channels, and the number of axes is not known")
    rank = shape.rank()
    if rank < 2 or not all(-rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) > 1:
        raise NoTable("scales or coefficients differ along more than one axis, or along the only one")
    axis = axes[0] % rank
    numbers = {part.scale.size for part in scales} | ({int(shape[axis])} if isinstance(shape[axis], int) else set())
    if len(numbers) != 1:
        raise NoTable("coefficients differ between channels, and their number is not known")
    return axis, rank, numbers.pop()


def cut(model: ir.Model, site: QuantizedActivation) -> ir.Model:
    """The activation with what dequantizes its input and quantizes its result, as the file has them.

    Input: the codes (:meth:`Site.inputs`). Outputs: the dequantized numbers, the activation's result, and that of each in
    ``site.after``.
    """
    linear = (site.before, *site.after)
    shape, entry = site.inputs().shape, site.before.node.inputs[0]
    assert entry is not None
    # Scale and zero point as numbers, not as lists of one, which would be along an axis that the part may lack.
    parameters = [v for part in linear if part.axis is None for v in part.node.inputs[1:3] if v is not None]
    constants = {v: ir.tensor(t.numpy().reshape(()), dtype=t.dtype) for v in parameters for t in [_tensor(v)]}
    results = [site.before.node.outputs[0], site.node.outputs[0], *(part.node.outputs[0] for part in site.after)]
    part = extract(model, entry, results, shape, dtype=site.before.codes, constants=constants)
    kinds = [_float(site), _float(site), *(part.codes for part in site.after)]
    for value, kind in zip(part.graph.outputs, kinds, strict=True):
        value.type, value.shape = ir.TensorType(kind), ir.Shape(shape)
    return part


def _float(site: QuantizedActivation) -> ir.DataType:
    """Type of the dequantized numbers: that of the scale (before opset 19 always float32), unless an attribute says."""
    named = _attribute(site.before.node, "output_dtype", 0)
    return ir.DataType(named) if named else ir.DataType(_tensor(site.before.node.inputs[1]).dtype)


def _tensor(value: ir.Value | None) -> Any:
    """The constant behind a value; callers have made sure that there is one."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor
