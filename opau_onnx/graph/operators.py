"""The one writer of ONNX operators: elementwise formulas of :mod:`opau_onnx.core.evaluation` as nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir


class Operators(ABC):
    """:class:`opau_onnx.core.evaluation.Ops` of the values of a graph that is being written."""

    @abstractmethod
    def call(self, op_type: str, *operands: Any, **attributes: Any) -> Value:
        """The result of an operator of ONNX's default domain; operands are values of this graph, or constants."""

    def abs(self, x: Any) -> Value:
        return self.call("Abs", x)

    def maximum(self, x: Any, y: Any) -> Value:
        return self.call("Max", x, y)

    def clamp(self, x: Any, low: float, high: float) -> Value:
        return self.call("Clip", x, low, high)

    def divide(self, x: Any, y: Any) -> Value:
        return self.call("Div", x, y)

    def where_nonzero(self, test: Any, x: Any, y: Any) -> Value:
        return self.call("Where", self.call("Cast", test, to=int(ir.DataType.BOOL)), x, y)

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return total + x * y

    def unary(self, op_type: str, x: Any, **attributes: float) -> Value:
        return self.call(op_type, x, **attributes)


class Value:
    """A tensor in a graph that is being written."""

    __slots__ = ("value", "writer")
    __array_ufunc__ = None  # so that an array times a Value asks the Value

    def __init__(self, writer: Operators, value: ir.Value) -> None:
        self.writer, self.value = writer, value

    def __add__(self, other: Any) -> Value:
        return self.writer.call("Add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.writer.call("Add", self, other)

    def __sub__(self, other: Any) -> Value:
        return self.writer.call("Sub", self, other)

    def __mul__(self, other: Any) -> Value:
        return self.writer.call("Mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.writer.call("Mul", self, other)


@dataclass
class Constants:
    """Initializers of a model by their contents, so that equal ones are there once.

    Attributes:
        graph: the model's main graph, which subgraphs see too.
    """

    graph: ir.Graph
    known: dict[tuple[Any, ...], ir.Value] = field(default_factory=dict)

    def value(self, array: Any) -> ir.Value:
        """The initializer with these contents."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            name = self._free_name()
            tensor = ir.tensor(array, name=name)
            made = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
            self.graph.register_initializer(made)
            self.known[key] = made
        return self.known[key]

    def _free_name(self) -> str:
        number = len(self.known)
        while f"opau.constant_{number}" in self.graph.initializers:
            number += 1
        return f"opau.constant_{number}"


class Writer(Operators):
    """Writes elementwise nodes; equal nodes of one activation are written once.

    Args:
        constants: of the model.
        dtype: numpy's, in which is computed.
        spread: turns a coefficient of shape (groups, 1) into one that broadcasts against x.
    """

    def __init__(self, constants: Constants, dtype: Any, spread: Any) -> None:
        self.constants, self.dtype, self.spread = constants, np.dtype(dtype), spread
        self.nodes: list[ir.Node] = []
        self.known: dict[tuple[Any, ...], Value] = {}

    def operand(self, x: Any) -> ir.Value:
        if isinstance(x, Value):
            return x.value
        array = np.asarray(x, dtype=self.dtype)
        return self.constants.value(self.spread(array) if array.ndim else array)

    def call(self, op_type: str, *operands: Any, **attributes: Any) -> Value:
        inputs = [self.operand(o) for o in operands]
        key = (op_type, *(id(v) for v in inputs), *sorted(attributes.items()))
        if key not in self.known:
            node = ir.node(op_type, inputs, attributes=attributes or None)
            self.nodes.append(node)
            self.known[key] = Value(self, node.outputs[0])
        return self.known[key]

    def lookup(self, table: Any, position: Value) -> Value:
        """As :meth:`opau_onnx.core.numpy_ops.NumpyOps.lookup`; several groups' tables stand one after the other.

        GatherElements on the flat tensor, not Gather: in onnxruntime it takes a quarter of the time.
        """
        groups, size = table.shape
        index = self.call("Cast", position, to=int(ir.DataType.INT32))
        index = self.call("BitwiseAnd", index, self._whole(np.array(size - 1)))
        if groups > 1:
            index = self.call("Add", index, self._whole(self.spread(np.arange(groups).reshape(-1, 1) * size)))
        stored = Value(self, self.constants.value(table.reshape(-1)))
        line = self.call("Reshape", index, Value(self, self.constants.value(np.array([-1], dtype=np.int64))))
        return self.call("Reshape", self.call("GatherElements", stored, line), self.call("Shape", position), allowzero=1)

    def _whole(self, array: Any) -> Value:
        return Value(self, self.constants.value(array.astype(np.int32)))
