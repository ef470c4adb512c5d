"""The operations of :mod:`opau_onnx.formula` over torch tensors: differentiable ones, and ones made for blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TorchOps:
    """:class:`opau_onnx.nn.gradient.GradientOps`, out of place: autograd and tracing follow every operation.

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

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        return x * y + total

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        return total + weight * x * y

    def greater(self, x: Any, y: Any) -> Any:
        return float(x > y) if isinstance(x, float) else (x > y).to(x.dtype)


class BlockOps(TorchOps):
    """The same with as few passes over the block as torch allows: fused where it can be, in place where that is safe.

    ``rank`` is the number of dimensions of a block; a tensor of fewer is a coefficient or made of coefficients. Where all
    elements share the coefficients they are Python floats, which torch takes along for nothing.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        if isinstance(y, float):
            x, y = y, x
        if isinstance(y, float):
            return total + x * y
        if isinstance(total, float):
            total = torch.scalar_tensor(total, dtype=y.dtype, device=y.device)
        if total.dim() == self.rank:
            return total.add_(y, alpha=x) if isinstance(x, float) else total.addcmul_(x, y)
        return torch.add(total, y, alpha=x) if isinstance(x, float) else torch.addcmul(total, x, y)

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        if isinstance(weight, float) and not isinstance(x, float):
            return total.addcmul_(x, y, value=weight)
        return self.multiply_add(total, weight * x, y)
