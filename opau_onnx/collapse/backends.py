"""The libraries that :mod:`opau_onnx.collapse.schemes` evaluates over: numpy, to try a scheme, and ONNX nodes, to write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir


class NumpyOps:
    """One IEEE operation each, in the arrays' own dtype, as ONNX's elementwise operators do."""

    def abs(self, x: Any) -> Any:
        return np.abs(x)

    def maximum(self, x: Any, y: Any) -> Any:
        return np.maximum(x, np.asarray(y, dtype=x.dtype))

    def clamp(self, x: Any, low: float, high: float) -> Any:
        return np.clip(x, np.asarray(low, dtype=x.dtype), np.asarray(high, dtype=x.dtype))

    def divide(self, x: Any, y: Any) -> Any:
        kind = getattr(y, "dtype", None) or x.dtype
        return np.asarray(x, dtype=kind) / np.asarray(y, dtype=kind)

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return total + x * y


class Value:
    """A tensor in a graph that is being written."""

    __slots__ = ("value", "writer")
    __array_ufunc__ = None  # so that an array times a Value asks the Value

    def __init__(self, writer: Writer, value: ir.Value) -> None:
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


class Writer:
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

    def abs(self, x: Any) -> Value:
        return self.call("Abs", x)

    def maximum(self, x: Any, y: Any) -> Value:
        return self.call("Max", x, y)

    def clamp(self, x: Any, low: float, high: float) -> Value:
        return self.call("Clip", x, low, high)

    def divide(self, x: Any, y: Any) -> Value:
        return self.call("Div", x, y)

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return total + x * y
