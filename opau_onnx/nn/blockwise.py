"""Forward and explicit backward on real tensors, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from opau_onnx.core import evaluation, gradient
from opau_onnx.core.spec import Config
from opau_onnx.nn.block_ops import BlockOps
from opau_onnx.nn.blocks import Layout, block_size, blocks
from opau_onnx.nn.coefficients import coefficients, fused_coefficients, fused_factors
from opau_onnx.nn.workspace import borrow, give_back


class _Work:
    """State that all blocks share: coefficients and their derivatives, prepared once and only if needed.

    A block takes the fused basis if none of its elements is out of range. On an accelerator that question would cost a
    synchronisation, so every block takes the scaled basis there.
    """

    def __init__(self, config: Config, c: Tensor, d: Tensor) -> None:
        self.config, self.c, self.d = config, c, d
        # The allocators of other devices keep memory themselves.
        self.workspace = borrow(c.dtype) if c.device.type == "cpu" else None
        self.ops = BlockOps(1 if config.groups == 1 else 3, self.workspace)
        self.limit = config.limit
        self.prepared: dict[bool, evaluation.Coefficients] = {}
        self.slopes: dict[bool, gradient.Derivatives] = {}

    def coefficients(self, *, fused: bool) -> evaluation.Coefficients:
        """Those of the fused basis, or of the scaled one."""
        if fused not in self.prepared:
            if fused:
                self.prepared[fused] = fused_coefficients(self.config, self.c, self.d)
            else:
                self.prepared[fused] = coefficients(self.config, self.c, self.d, scaled=True)
        return self.prepared[fused]

    def derivatives(self, *, fused: bool) -> gradient.Derivatives:
        if fused not in self.slopes:
            self.slopes[fused] = gradient.derivatives(self.config, self.coefficients(fused=fused), fused=fused)
        return self.slopes[fused]

    def start(self, x: Tensor) -> Tensor:
        """Begin a block: x in the dtype of the arithmetic."""
        if self.workspace:
            self.workspace.start(x)
        return x.to(self.c.dtype)

    def finish(self) -> None:
        if self.workspace:
            give_back(self.workspace)

    def in_range(self, x: Tensor) -> bool:
        if self.workspace is None:
            return False
        low, high = (v.item() for v in x.aminmax())
        return -self.limit <= low and high <= self.limit  # False also for NaN

    def value(self, x: Tensor, out: Tensor) -> None:
        ops, config = self.ops, self.config
        fused = config.top > 0 and self.in_range(x)
        values = self.coefficients(fused=fused)
        if fused:
            rows = evaluation.fused_basis(ops, config, x)
        else:
            rows = evaluation.scaled_basis(ops, config, x, values.beyond) if config.top else evaluation.constant_rows(ops, x)
        torch.div(*evaluation.parts(ops, config, rows, values), out=out)

    def gradient(self, x: Tensor, g: Tensor, need_x: bool) -> tuple[gradient.Gradient, bool]:
        """The gradient's factors, and whether they are those of the fused basis."""
        ops, config, lower = self.ops, self.config, None
        fused = config.top > 0 and self.in_range(x)
        values = self.coefficients(fused=fused)
        slopes = self.derivatives(fused=fused) if need_x else None
        if fused:
            rows = evaluation.fused_basis(ops, config, x)
        elif config.top == 0:
            rows = evaluation.constant_rows(ops, x)
        else:
            rows, lower = evaluation.scaled_bases(ops, config, x, values.beyond)
        return gradient.gradient(ops, config, rows, values, slopes, g, lower), fused


def forward(config: Config, x: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """y, of x's shape, dtype and order in memory; computed in the dtype of the coefficients c and d."""
    layout = Layout.of(x, config)
    flat = layout.flatten(x)
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    work = _Work(config, c, d)
    for at in blocks(layout.shape, block_size(x.device)):
        work.value(work.start(flat[at]), out[at])
    work.finish()
    return layout.restore(out, x)


def backward(
    config: Config, x: Tensor, c: Tensor, d: Tensor, g: Tensor, *, need_x: bool, need_coefficients: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of sum(g * y) by x, c and the weights of d (see :class:`opau_onnx.core.gradient.Gradient`).

    Returns:
        dx like x; dc (k + 1,) or (k + 1, groups), and dd likewise, in float64. None for what is not needed.
    """
    layout = Layout.of(x, config)
    flat, flat_g = layout.flatten(x), layout.flatten(g)
    dx = torch.empty_like(flat, memory_format=torch.contiguous_format) if need_x else None
    sums = _Sums(config, x.device)
    work = _Work(config, c, d)
    for at in blocks(layout.shape, block_size(x.device)):
        part, fused = work.gradient(work.start(flat[at]), flat_g[at].to(c.dtype), need_x)
        if dx is not None:
            torch.mul(part.x_weight, part.slope, out=dx[at])
        if need_coefficients:
            sums.add(part, fused)
    work.finish()
    restored = None if dx is None else layout.restore(dx, x)
    return restored, *(sums.result() if need_coefficients else (None, None))


class _Sums:
    """Sums over the elements that share a coefficient: float32 or float64 within a block, float64 over the blocks."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        rows = config.numerator_size + config.denominator_size
        shape = (rows, config.groups) if config.groups > 1 else (rows,)
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)

    def factors(self) -> Tensor:
        top, bottom = fused_factors(self.config)
        factors = torch.tensor(top + bottom, dtype=torch.float64, device=self.device)
        return factors if self.config.groups == 1 else factors[:, None]

    def add(self, part: gradient.Gradient, fused: bool) -> None:
        top = [self._sum(part.weight, row) for row in part.rows[: self.config.numerator_size]]
        bottom = [self._sum(part.denominator_weight, row) for row in part.denominator_rows]
        sums = torch.stack(top + bottom)
        self.total += sums * self.factors() if fused else sums

    def _sum(self, weight: Tensor, row: Tensor | float) -> Tensor:
        if self.config.groups > 1:
            return (weight * row).sum(dim=(0, 2))
        return weight.sum() * row if isinstance(row, float) else torch.dot(weight, row)

    def result(self) -> tuple[Tensor, Tensor]:
        return self.total[: self.config.numerator_size], self.total[self.config.numerator_size :]
