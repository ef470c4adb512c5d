"""Branch-free on the whole tensor, in differentiable operations: for tracing, transforms and double backward."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opau_onnx.core import evaluation, gradient
from opau_onnx.core.spec import Config
from opau_onnx.nn.coefficients import coefficients
from opau_onnx.nn.torch_ops import TorchOps

_OPS = TorchOps()


def forward(config: Config, x: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """y, of x's shape and dtype; computed in the dtype of the coefficients c and d."""
    values = coefficients(config, c, d, scaled=True)
    wide = _grouped(config, x).to(c.dtype)
    rows = evaluation.scaled_basis(_OPS, config, wide, values.beyond) if config.top else evaluation.constant_rows(_OPS, wide)
    y: Tensor = evaluation.rational(_OPS, config, rows, values)
    return y.reshape(x.shape).to(x.dtype)


def backward(config: Config, x: Tensor, c: Tensor, d: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of sum(g * y) by x, c and the weights of d, as :func:`opau_onnx.nn.blockwise.backward`, in c's dtype."""
    values = coefficients(config, c, d, scaled=True)
    wide, wide_g = _grouped(config, x).to(c.dtype), _grouped(config, g).to(c.dtype)
    slopes = gradient.derivatives(config, values)
    if config.top == 0:
        rows, lower = evaluation.constant_rows(_OPS, wide), None
    else:
        rows, lower = evaluation.scaled_bases(_OPS, config, wide, values.beyond)
    part = gradient.gradient(_OPS, config, rows, values, slopes, wide_g, lower)
    dx = (part.x_weight * part.slope).reshape(x.shape).to(x.dtype)
    dc = [_sum(config, part.weight * row) for row in part.rows[: config.numerator_size]]
    dd = [_sum(config, part.denominator_weight * row) for row in part.denominator_rows]
    return dx, _stack(c, dc), _stack(d, dd)


def _grouped(config: Config, x: Tensor) -> Tensor:
    """x as (outer, groups, inner) where there are groups."""
    if config.groups == 1:
        return x
    axis = config.check_input(tuple(x.shape))
    shape, inner = x.shape, x.shape[axis] // config.groups * math.prod(x.shape[axis + 1 :])
    return x.reshape(math.prod(shape[:axis]), config.groups, inner)


def _sum(config: Config, product: Tensor) -> Tensor:
    return product.sum(dim=(0, 2)) if config.groups > 1 else product.sum()


def _stack(like: Tensor, sums: list[Tensor]) -> Tensor:
    return torch.stack(sums) if sums else like.new_zeros((0,))
