"""The operations of :mod:`opau_onnx.core.evaluation` on blocks: fused, in place where that is safe, in memory that is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from opau_onnx.nn.torch_ops import TorchOps
from opau_onnx.nn.workspace import Workspace


class BlockOps(TorchOps):
    """As few passes over the block as torch allows.

    Coefficients are Python floats where all elements share them, since torch takes those along for nothing, else tensors
    of fewer dimensions than a block has.
    """

    def __init__(self, rank: int, workspace: Workspace | None) -> None:
        self.rank = rank
        self.take = workspace.take if workspace else _nowhere

    def is_block(self, x: Any) -> bool:
        return not isinstance(x, float) and x.dim() == self.rank

    def abs(self, x: Any) -> Any:
        return torch.abs(x, out=self.take()) if self.is_block(x) else super().abs(x)

    def sign(self, x: Any) -> Any:
        return torch.sign(x, out=self.take()) if self.is_block(x) else super().sign(x)

    def multiply(self, x: Any, y: Any) -> Any:
        return torch.mul(x, y, out=self.take()) if self.is_block(x) and self.is_block(y) else x * y

    def divide(self, x: Any, y: Any) -> Any:
        return torch.div(x, y, out=self.take()) if self.is_block(x) and self.is_block(y) else x / y

    def multiply_add(self, total: Any, x: Any, y: Any) -> Any:
        if isinstance(y, float):
            x, y = y, x
        if isinstance(y, float):
            return total + x * y
        total = _tensor(total, y)
        if total.dim() == self.rank:
            return total.add_(y, alpha=x) if isinstance(x, float) else total.addcmul_(x, y)
        out = self.take()
        return torch.add(total, y, alpha=x, out=out) if isinstance(x, float) else torch.addcmul(total, x, y, out=out)

    def weighted_sum(self, total: Any, weight: float, x: Any, y: Any) -> Any:
        return torch.addcmul(_tensor(total, x), x, y, value=weight, out=self.take())

    def weighted_add(self, total: Any, weight: Any, x: Any, y: Any) -> Any:
        if isinstance(weight, float) and not isinstance(x, float):
            return total.addcmul_(x, y, value=weight)
        return self.multiply_add(total, weight * x, y)


def _tensor(value: Any, like: Tensor) -> Tensor:
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device) if isinstance(value, float) else value


def _nowhere() -> None:
    """No memory of ours: torch allocates the result."""
