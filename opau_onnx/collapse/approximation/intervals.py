"""Interval arithmetic for :mod:`opau_onnx.core.evaluation` and the evaluation plans: bounds that hold for every number.

Each operation's result is widened by the unit roundoff of the arithmetic that it stands for: 2**-53 gives an enclosure of the
exact function, 2**-24 one of everything that float32 may compute for any input of the interval. (R. E. Moore, "Interval
Analysis", 1966.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
DOUBLE = 2.0**-52
"""Widening of each bound for its own evaluation in float64, twice the roundoff."""
TRANSCENDENTAL = 2.0**-20
"""Relative error allowed to a runtime's Sigmoid, Erf and Gelu: four units of float32's last place are usual."""


@dataclass(frozen=True, eq=False)
class Interval:
    """[low, high], elementwise.

    Attributes:
        low, high: bounds, arrays of one shape.
        unit: relative widening of each further operation.
        tiny: absolute one, for results below the normal numbers.
    """

    low: Array
    high: Array
    unit: float = DOUBLE
    tiny: float = 5e-324
    __array_ufunc__ = None  # so that an array times an Interval asks the Interval

    def wide(self, low: Any, high: Any, unit: float | None = None) -> Interval:
        """The result of an operation whose exact result lies in [low, high]."""
        factor = (self.unit if unit is None else unit) + DOUBLE
        low = low - np.abs(low) * factor - self.tiny
        return Interval(low, high + np.abs(high) * factor + self.tiny, self.unit, self.tiny)

    def _bounds(self, other: Any) -> tuple[Any, Any]:
        if isinstance(other, Interval):
            return other.low, other.high
        value = np.asarray(other, dtype=np.float64)
        return value, value

    def __add__(self, other: Any) -> Interval:
        low, high = self._bounds(other)
        return self.wide(self.low + low, self.high + high)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Interval:
        low, high = self._bounds(other)
        return self.wide(self.low - high, self.high - low)

    def __mul__(self, other: Any) -> Interval:
        low, high = self._bounds(other)
        products = [self.low * low, self.low * high, self.high * low, self.high * high]
        return self.wide(np.minimum.reduce(products), np.maximum.reduce(products))

    __rmul__ = __mul__


class IntervalOps:
    """:class:`opau_onnx.core.evaluation.Ops` over intervals."""

    def abs(self, x: Interval) -> Interval:
        low = np.maximum(np.maximum(x.low, -x.high), 0.0)
        return Interval(low, np.maximum(np.abs(x.low), np.abs(x.high)), x.unit, x.tiny)

    def maximum(self, x: Interval, y: Any) -> Interval:
        low, high = x._bounds(y)
        return Interval(np.maximum(x.low, low), np.maximum(x.high, high), x.unit, x.tiny)

    def clamp(self, x: Interval, low: float, high: float) -> Interval:
        return Interval(np.clip(x.low, low, high), np.clip(x.high, low, high), x.unit, x.tiny)

    def divide(self, x: Any, y: Any) -> Interval:
        """Unbounded where y holds 0."""
        if isinstance(y, Interval):
            return self._quotient(x, y)
        low, high = x._bounds(y)
        return self._quotient(x, Interval(low, high, x.unit, x.tiny))

    @staticmethod
    def _quotient(x: Any, y: Interval) -> Interval:
        low, high = y._bounds(x)
        with np.errstate(all="ignore"):
            quotients = [low / y.low, low / y.high, high / y.low, high / y.high]
            pole = (y.low <= 0) & (y.high >= 0)
            smallest = np.where(pole, -np.inf, np.minimum.reduce(quotients))
            return y.wide(smallest, np.where(pole, np.inf, np.maximum.reduce(quotients)))

    def where_nonzero(self, test: Any, x: Interval, y: Any) -> Interval:
        """The hull of both: intervals cannot tell which of them applies."""
        low, high = x._bounds(y)
        return Interval(np.minimum(x.low, low), np.maximum(x.high, high), x.unit, x.tiny)

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return total + x * y

    def unary(self, op_type: str, x: Interval, **attributes: float) -> Interval:
        """An operator of ONNX that is monotone, or Gelu."""
        if op_type == "LeakyRelu":
            alpha = float(np.float32(attributes["alpha"]))
            return self.maximum(x, 0.0) + (x - self.maximum(x, 0.0)) * alpha
        if op_type == "Gelu":
            half = self._monotone(lambda v: 0.5 * (1.0 + _erf(v / np.sqrt(2.0))), x)
            product = x * half
            return product.wide(product.low, product.high, TRANSCENDENTAL)
        if op_type == "Sigmoid":
            return self._monotone(lambda v: 0.5 * (1.0 + np.tanh(0.5 * v)), x)
        raise ValueError(op_type)

    @staticmethod
    def _monotone(function: Any, x: Interval) -> Interval:
        return x.wide(function(x.low), function(x.high), TRANSCENDENTAL)


def _erf(x: Any) -> Any:
    from scipy.special import erf

    return erf(x)


def single(low: Any, high: Any, compute: str) -> Interval:
    """Inputs of an evaluation in "float32" or "float64"."""
    info = np.finfo(compute)
    unit = float(info.eps) / 2
    return Interval(np.asarray(low, np.float64), np.asarray(high, np.float64), unit, float(info.smallest_subnormal))
