"""The operations of :mod:`opau_onnx.core.evaluation` over torch tensors, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TorchOps:
    """:class:`opau_onnx.core.gradient.GradientOps`, out of place: autograd and tracing follow every operation.

    Values are tensors, or floats where an operation has nothing but constants and coefficients to work on.
    """

    def abs(self, x: Any) -> Any:
        return abs(x)

    def sign(self, x: Any) -> Any:
        return float((x > 0) - (x < 0)) if isinstance(x, float) else torch.sign(x)

    def maximum(self, x: Any, y: Any) -> Any:
        if isinstance(x, float):
            return max(x, y)
        return x.clamp(min=y) if isinstance(y, float) else torch.maximum(x, y)

    def clamp(self, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    def divide(self, x: Any, y: Any) -> Any:
        return x / y

    def where_nonzero(self, test: Any, x: Any, y: Any) -> Any:
        return torch.where(test != 0, x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        return x * y

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return x * y + total

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        return total + weight * x * y

    def greater(self, x: Any, y: Any) -> Any:
        return float(x > y) if isinstance(x, float) else (x > y).to(x.dtype)
