"""Forward and explicit backward on real tensors, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from opau_onnx import formula
from opau_onnx.nn import gradient
from opau_onnx.nn.blocks import Layout, block_size, blocks
from opau_onnx.nn.coefficients import coefficients, shared_coefficients
from opau_onnx.nn.torch_ops import BlockOps
from opau_onnx.spec import Config, ordinary_limit


class _Work:
    """Coefficients prepared once; each block takes the ordinary basis if none of its elements is out of range.

    On an accelerator that question would cost a synchronisation, so every block takes the scaled basis there.
    """

    def __init__(self, config: Config, c: Tensor, d: Tensor, rank: int) -> None:
        self.config, self.c, self.d = config, c, d
        self.ops = BlockOps(rank)
        self.limit = ordinary_limit(config.top)
        self.on_cpu = c.device.type == "cpu"
        self.prepare = shared_coefficients if self.on_cpu and config.groups == 1 else coefficients
        self.coefficients = self.prepare(config, c, d, scaled=False)
        self._beyond: Sequence[Any] | None = None

    def ordinary_rows(self, x: Tensor) -> list[Any] | None:
        """The rows where x needs no scaling, else None."""
        if self.config.top == 0:
            return formula.constant_rows(self.ops, x)
        return formula.ordinary_basis(self.config, x, self.ops) if self._in_range(x) else None

    def beyond(self) -> Sequence[Any]:
        if self._beyond is None:
            self._beyond = self.prepare(self.config, self.c, self.d, scaled=True).beyond
        return self._beyond

    def _in_range(self, x: Tensor) -> bool:
        if not self.on_cpu:
            return False
        low, high = (v.item() for v in x.aminmax())
        return -self.limit <= low and high <= self.limit  # False also for NaN


def forward(config: Config, x: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """y, of x's shape, dtype and order in memory; computed in the dtype of the coefficients c and d."""
    layout = Layout.of(x, config)
    flat = layout.flatten(x)
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    work = _Work(config, c, d, len(layout.shape))
    for at in blocks(layout.shape, block_size(x.device)):
        part = flat[at].to(c.dtype)
        rows = work.ordinary_rows(part) or formula.scaled_basis(work.ops, config, part, work.beyond())
        bottom, _ = formula.denominator(work.ops, config.denominator_form, rows, work.coefficients.denominator)
        torch.div(formula.dot(work.ops, work.coefficients.numerator, rows), bottom, out=out[at])
    return layout.restore(out, x)


def backward(
    config: Config, x: Tensor, c: Tensor, d: Tensor, g: Tensor, *, need_x: bool, need_coefficients: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of sum(g * y) by x, c and abs(d) or d (see :class:`opau_onnx.nn.gradient.Gradient`).

    Returns:
        dx like x; dc (k + 1,) or (k + 1, groups), and dd likewise, in float64. None for what is not needed.
    """
    layout = Layout.of(x, config)
    flat, flat_g = layout.flatten(x), layout.flatten(g)
    dx = torch.empty_like(flat, memory_format=torch.contiguous_format) if need_x else None
    sums = _Sums(config, x.device)
    work = _Work(config, c, d, len(layout.shape))
    slopes = gradient.derivatives(config, work.coefficients) if need_x else None
    for at in blocks(layout.shape, block_size(x.device)):
        wide, lower = flat[at].to(c.dtype), None
        rows = work.ordinary_rows(wide)
        if rows is None:
            rows, lower = formula.scaled_bases(work.ops, config, wide, work.beyond())
        part = gradient.gradient(work.ops, config, rows, work.coefficients, slopes, flat_g[at].to(c.dtype), lower)
        if dx is not None:
            torch.mul(part.x_weight, part.slope, out=dx[at])
        if need_coefficients:
            sums.add(part)
    restored = None if dx is None else layout.restore(dx, x)
    return restored, *(sums.result() if need_coefficients else (None, None))


class _Sums:
    """Sums over the elements that share a coefficient: float32 or float64 within a block, float64 over the blocks."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        rows = config.numerator_size + config.denominator_size
        shape = (rows, config.groups) if config.groups > 1 else (rows,)
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, part: gradient.Gradient) -> None:
        top = [self._sum(part.weight, row) for row in part.rows[: self.config.numerator_size]]
        bottom = [self._sum(part.denominator_weight, row) for row in part.denominator_rows]
        self.total += torch.stack(top + bottom)

    def _sum(self, weight: Tensor, row: Tensor | float) -> Tensor:
        if self.config.groups > 1:
            return (weight * row).sum(dim=(0, 2))
        return weight.sum() * row if isinstance(row, float) else torch.dot(weight, row)

    def result(self) -> tuple[Tensor, Tensor]:
        return self.total[: self.config.numerator_size], self.total[self.config.numerator_size :]
