"""The torch operator ``opau::orthogonal_pade`` and its explicit backward.

The operator is a CompositeImplicitAutograd one: ``torch.export`` keeps it as ONE node, ``torch.compile`` looks through it and
fuses it. In eager mode it works block by block. The backward pass keeps the input and the coefficients alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from opau_onnx.core.spec import Config
from opau_onnx.nn import blockwise, traceable
from opau_onnx.nn.blocks import compute_dtype
from opau_onnx.nn.torch_ops import TorchOps

_OPS = TorchOps()
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, None]


def _is_eager(x: Tensor) -> bool:
    return type(x) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()


def _by_blocks(x: Tensor) -> bool:
    """Plain eager tensors go block by block; traced, transformed and wrapped ones take the branch-free formula."""
    return _is_eager(x) and x.device.type != "meta" and not torch._C._are_functorch_transforms_active()


def _forward(config: Config, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    dtype = compute_dtype(x.dtype, numerator.dtype)
    forward = blockwise.forward if _by_blocks(x) else traceable.forward
    return forward(config, x, numerator.to(dtype), denominator.to(dtype))


class _OrthogonalPade(torch.autograd.Function):
    """Forward and explicit backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
        ctx.config = config
        ctx.save_for_backward(x, numerator, denominator)
        return _forward(config, x, numerator, denominator)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, numerator, denominator = ctx.saved_tensors
        config, need = ctx.config, ctx.needs_input_grad
        dtype = compute_dtype(x.dtype, numerator.dtype)
        c, d = numerator.to(dtype), denominator.to(dtype)
        dx: Tensor | None
        sums_c: Tensor | None
        sums_d: Tensor | None
        if torch.is_grad_enabled() or not _by_blocks(x):  # create_graph=True: the gradient itself must be differentiable
            dx, sums_c, sums_d = traceable.backward(config, x, c, d, g)
        else:
            wanted = {"need_x": need[0], "need_coefficients": need[1] or need[2]}
            dx, sums_c, sums_d = blockwise.backward(config, x, c, d, g, **wanted)
        dc = _coefficient_gradient(config, sums_c, numerator) if need[1] else None
        dd = _coefficient_gradient(config, sums_d, denominator) if need[2] else None
        slope = config.denominator_form.mode.weight_slope(_OPS, denominator)
        if dd is not None and slope is not None:
            dd = dd * slope  # the sums are by the weights
        return dx if need[0] else None, dc, dd, None


def _coefficient_gradient(config: Config, sums: Tensor | None, values: Tensor) -> Tensor:
    """Bring (n,) or (n, groups) to the shape and dtype of the coefficients."""
    assert sums is not None
    total = (sums.sum(-1) if values.dim() == 1 else sums.t()) if config.groups > 1 else sums
    return total.to(values.dtype)


@lru_cache(maxsize=256)
def _config(basis: str, form: str, degrees: tuple[int, int], groups: int, axis: int) -> Config:
    return Config(basis, form, degrees, groups, axis)


def _orthogonal_pade(
    x: Tensor, numerator: Tensor, denominator: Tensor, basis: str, form: str, degrees: list[int], groups: int, axis: int
) -> Tensor:
    return _apply(x, numerator, denominator, _config(basis, form, (degrees[0], degrees[1]), groups, axis))


def _apply(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    config.check_coefficients(tuple(numerator.shape), tuple(denominator.shape))
    config.check_input(tuple(x.shape))
    if torch._C._are_functorch_transforms_active() or torch.compiler.is_exporting():
        return _forward(config, x, numerator, denominator)  # these differentiate by themselves
    return _OrthogonalPade.apply(x, numerator, denominator, config)  # type: ignore[no-any-return, no-untyped-call]


_LIBRARY = torch.library.Library("opau", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "orthogonal_pade(Tensor x, Tensor numerator, Tensor denominator, str basis, str form, int[] degrees, "
    "int groups, int axis) -> Tensor"
)
_LIBRARY.impl("orthogonal_pade", _orthogonal_pade, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]


def orthogonal_pade(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    """y = P(x) / Q(x), elementwise; see :mod:`opau_onnx.core.spec`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        numerator: c_0 .. c_k, shape (k + 1,) or (groups, k + 1).
        denominator: d_first .. d_l, shape (n,) or (groups, n).
        config: which function.

    Returns:
        A tensor of x's shape and dtype. Computed in float32, or in float64 if x or the coefficients are float64.

    Raises:
        SpecError: shapes that do not fit ``config``.
    """
    if _is_eager(x):  # the dispatcher would only come back here, 50 microseconds later, and cannot batch for vmap
        return _apply(x, numerator, denominator, config)
    result: Tensor = torch.ops.opau.orthogonal_pade(
        x, numerator, denominator, config.basis, config.form, list(config.degrees), config.groups, config.axis
    )
    return result
