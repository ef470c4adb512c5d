"""The operations of :mod:`opau_onnx.core.evaluation` and :mod:`opau_onnx.core.gradient` over keras.ops, on any backend."""

from __future__ import annotations

from typing import Any

from keras import ops


class KerasOps:
    """:class:`opau_onnx.core.gradient.GradientOps`, out of place.

    Values are tensors, or floats where an operation has nothing but constants to work on.
    """

    def abs(self, x: Any) -> Any:
        return abs(x) if isinstance(x, float) else ops.abs(x)

    def sign(self, x: Any) -> Any:
        return float((x > 0) - (x < 0)) if isinstance(x, float) else ops.sign(x)

    def maximum(self, x: Any, y: Any) -> Any:
        return max(x, y) if isinstance(x, float) and isinstance(y, float) else ops.maximum(x, y)

    def clamp(self, x: Any, low: float, high: float) -> Any:
        return ops.clip(x, low, high)

    def divide(self, x: Any, y: Any) -> Any:
        return x / y

    def where_nonzero(self, test: Any, x: Any, y: Any) -> Any:
        return ops.where(test != 0, x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        return x * y

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return x * y + total

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        return total + weight * x * y

    def greater(self, x: Any, y: Any) -> Any:
        return float(x > y) if isinstance(x, float) else ops.cast(x > y, x.dtype)
