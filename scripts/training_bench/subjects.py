"""The activations that are timed: ours, and what users would pick instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.nn import HP1


class _Learned(nn.Module):
    """HP-1's parameters."""

    def __init__(self) -> None:
        super().__init__()
        start = HP1()
        self.numerator, self.denominator = start.numerator, start.denominator


class Plain(_Learned):
    """HP-1 as one would write it: the recurrence in torch operations, gradients by autograd."""

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.ones_like(x), x]
        for n in range(1, 5):
            rows.append(x * rows[n] - n * rows[n - 1])
        top = self.numerator[0] * rows[0]
        for i in range(1, 6):
            top = top + self.numerator[i] * rows[i]
        bottom = rows[0]
        for j in range(4):
            bottom = bottom + self.denominator[j].abs() * rows[j + 1].abs()
        return top / bottom


class Empty(_Learned):
    """An autograd.Function with two parameters that computes nothing: the floor of what Python and autograd cost."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Empty.apply(x, self.numerator, self.denominator)  # type: ignore[no-untyped-call]
        return y


class _Empty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(v) for v in ctx.saved_tensors)


def rational() -> nn.Module:
    """rational-activations' own module of the same degrees, in its version A."""
    from rational.torch import Rational  # type: ignore[import-untyped]

    module: nn.Module = Rational("leaky_relu", degrees=(5, 4), cuda=False, version="A")
    return module


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "nn.ReLU": nn.ReLU,
    "nn.GELU": nn.GELU,
    "nn.SiLU": nn.SiLU,
    "HP1": HP1,
    "HP1, compiled": HP1,
    "formula": Plain,
    "formula, compiled": Plain,
    "rational-activations": rational,
}


def variant(name: str) -> nn.Module:
    """A fresh module by its name; one that is compiled is so at its first call."""
    module = VARIANTS[name]()
    if name.endswith("compiled"):
        module.compile(fullgraph=True, dynamic=True)
    return module
