"""A way to evaluate an activation as a list of elementwise operations, for whatever writes programs of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.core.frozen import Array, Frozen
from opau_onnx.core.plans import Evaluation


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        operation: "add", "sub", "mul", "divide", "abs", "maximum", "clamp" (x, low, high), "nonzero" (true where x is not 0;
            NaN is not) or "where" (test, x, y).
        operands: numbers of earlier results, 0 being the input and n the result of the n-th step, or constants, arrays of shape
            () or (groups, 1) in the dtype of computation.
    """

    operation: str
    operands: tuple[int | Array, ...]


@dataclass(frozen=True)
class Recording:
    """Steps that compute y from x, in order, and the number of the result that is y."""

    steps: tuple[Step, ...]
    result: int


def record(way: Evaluation, frozen: Frozen) -> Recording:
    """The steps of ``way``, without those that would be there twice."""
    recorder = _Recorder(frozen.compute)
    result = way.evaluate(recorder, frozen, _Value(recorder, 0))
    return Recording(tuple(recorder.steps), result.number)


class _Value:
    """A result that is not known yet."""

    __slots__ = ("number", "recorder")
    __array_ufunc__ = None  # so that an array times a _Value asks the _Value

    def __init__(self, recorder: _Recorder, number: int) -> None:
        self.recorder, self.number = recorder, number

    def __add__(self, other: Any) -> _Value:
        return self.recorder.step("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> _Value:
        return self.recorder.step("sub", self, other)

    def __mul__(self, other: Any) -> _Value:
        return self.recorder.step("mul", self, other)

    __rmul__ = __mul__


class _Recorder:
    """:class:`opau_onnx.core.evaluation.Ops` that writes down what it is asked for."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.steps: list[Step] = []
        self.known: dict[tuple[Any, ...], _Value] = {}

    def step(self, operation: str, *operands: Any) -> _Value:
        given = tuple(o.number if isinstance(o, _Value) else np.asarray(o, dtype=self.dtype) for o in operands)
        key = (operation, *(o if isinstance(o, int) else (o.shape, o.tobytes()) for o in given))
        if key not in self.known:
            self.steps.append(Step(operation, given))
            self.known[key] = _Value(self, len(self.steps))
        return self.known[key]

    def abs(self, x: Any) -> _Value:
        return self.step("abs", x)

    def maximum(self, x: Any, y: Any) -> _Value:
        return self.step("maximum", x, y)

    def clamp(self, x: Any, low: float, high: float) -> _Value:
        return self.step("clamp", x, low, high)

    def divide(self, x: Any, y: Any) -> _Value:
        return self.step("divide", x, y)

    def where_nonzero(self, test: Any, x: Any, y: Any) -> _Value:
        return self.step("where", self.step("nonzero", test), x, y)

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return total + x * y
