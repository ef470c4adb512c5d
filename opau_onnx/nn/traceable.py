"""Branch-free in differentiable operations: for tracing, transforms, double backward and what the kernels do not take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opau_onnx.core import evaluation, gradient
from opau_onnx.core.spec import Config
from opau_onnx.nn.coefficients import coefficients
from opau_onnx.nn.torch_ops import TorchOps

_OPS = TorchOps()


def forward(config: Config, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """y, of x's shape and dtype; computed in float64 where the input or the coefficients are, else in float32."""
    c, d = _wide(x, numerator, denominator)
    values = coefficients(config, c, d)
    wide = _grouped(config, x).to(c.dtype)
    y: Tensor = evaluation.value(_OPS, config, wide, values)
    return (y if y.shape == x.shape else y.reshape(x.shape)).to(x.dtype)


def backward(
    config: Config, x: Tensor, numerator: Tensor, denominator: Tensor, g: Tensor, need_x: bool, need_coefficients: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of sum(g y) by x, numerator and denominator in their shapes and dtypes; None for what is not needed."""
    c, d = _wide(x, numerator, denominator)
    values = coefficients(config, c, d)
    wide, wide_g = _grouped(config, x).to(c.dtype), _grouped(config, g).to(c.dtype)
    slopes = gradient.derivatives(config, values) if need_x else None
    if config.top == 0:
        rows, lower = evaluation.constant_rows(_OPS, wide), None
    else:
        rows, lower = evaluation.scaled_bases(_OPS, config, wide, values.beyond)
    part = gradient.gradient(_OPS, config, rows, values, slopes, wide_g, lower)
    dx = (part.x_weight * part.slope).reshape(x.shape).to(x.dtype) if need_x else None
    if not need_coefficients:
        return dx, None, None
    dc = _stack(config, c, [_sum(config, part.weight * row) for row in part.rows[: config.numerator_size]])
    dd = _stack(config, d, [_sum(config, part.denominator_weight * row) for row in part.denominator_rows])
    dd = _shaped(config, dd, denominator)
    slope = config.denominator_form.mode.weight_slope(_OPS, denominator)
    if slope is not None:  # dd is by the weights, and may be infinite where a weight of 0 stands above all others
        dd = torch.where(slope == 0, 0.0, dd * slope)
    return dx, _shaped(config, dc, numerator), dd


def _wide(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients in the dtype of the arithmetic."""
    dtype = torch.float64 if torch.float64 in (x.dtype, numerator.dtype, denominator.dtype) else torch.float32
    return numerator.to(dtype), denominator.to(dtype)


def _shaped(config: Config, sums: Tensor, values: Tensor) -> Tensor:
    """Bring (n,) or (n, groups) to the shape and dtype of the coefficients."""
    total = (sums.sum(-1) if values.dim() == 1 else sums.t()) if config.groups > 1 else sums
    return total.to(values.dtype)


def _grouped(config: Config, x: Tensor) -> Tensor:
    """x as (outer, groups, inner) where there are groups."""
    if config.groups == 1:
        return x
    axis = config.check_input(tuple(x.shape))
    shape, inner = x.shape, x.shape[axis] // config.groups * math.prod(x.shape[axis + 1 :])
    return x.reshape(math.prod(shape[:axis]), config.groups, inner)


def _sum(config: Config, product: Tensor) -> Tensor:
    return product.sum(dim=(0, 2)) if config.groups > 1 else product.sum()


def _stack(config: Config, like: Tensor, sums: list[Tensor]) -> Tensor:
    """(n,), or (n, groups) where there are groups, for n = 0 too."""
    return torch.stack(sums) if sums else like.new_zeros((0, config.groups) if config.groups > 1 else (0,))
