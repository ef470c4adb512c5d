"""The operations of :mod:`opau_onnx.core.evaluation` over numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np


class NumpyOps:
    """:class:`opau_onnx.core.gradient.GradientOps`: one IEEE operation each, in the arrays' own dtype, as ONNX's elementwise
    operators do; and the operators besides that a collapsed activation may use."""

    abs, sign = staticmethod(np.abs), staticmethod(np.sign)

    def maximum(self, x: Any, y: Any) -> Any:
        return np.maximum(x, np.asarray(y, dtype=np.result_type(x)))

    def clamp(self, x: Any, low: float, high: float) -> Any:
        return np.clip(x, np.asarray(low, dtype=x.dtype), np.asarray(high, dtype=x.dtype))

    def divide(self, x: Any, y: Any) -> Any:
        kind = getattr(y, "dtype", None) or x.dtype
        return np.asarray(x, dtype=kind) / np.asarray(y, dtype=kind)

    def where_nonzero(self, test: Any, x: Any, y: Any) -> Any:
        return np.where(np.asarray(test) != 0, x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        return x * y

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return total + x * y

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        return total + weight * x * y

    def greater(self, x: Any, y: Any) -> Any:
        return np.asarray(x > y, dtype=np.float64)

    def unary(self, op_type: str, x: Any, **attributes: float) -> Any:
        """LeakyRelu, Sigmoid or Gelu; the last two not rounded as any runtime rounds them."""
        if op_type == "LeakyRelu":
            return np.where(x < 0, x * x.dtype.type(attributes["alpha"]), x)
        from scipy.special import erf, expit

        found = expit(x) if op_type == "Sigmoid" else 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))
        return np.asarray(found, dtype=x.dtype)

    def lookup(self, table: Any, position: Any) -> Any:
        """The row's own value at each truncated position, modulo the size; table (groups, size)."""
        with np.errstate(invalid="ignore"):
            index = position.astype(np.int32) & (table.shape[1] - 1)
        groups = np.arange(len(table)).reshape(-1, 1) if len(table) > 1 else 0
        return table[groups, index]
