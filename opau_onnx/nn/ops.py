"""The torch operator ``opau::orthogonal_pade`` and its explicit backward.

The operator is a CompositeImplicitAutograd one: ``torch.export`` keeps it as ONE node, ``torch.compile`` looks through it and
fuses it. In eager mode it works block by block and saves only the input and the coefficients for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from opau_onnx import formula
from opau_onnx.nn.blocks import Layout, blocks, compute_dtype
from opau_onnx.spec import Config, ordinary_limit


class TorchOps:
    """:class:`opau_onnx.formula.GradientOps` over torch tensors."""

    abs = staticmethod(torch.abs)
    sign = staticmethod(torch.sign)

    @staticmethod
    def maximum(x: Tensor, y: Any) -> Tensor:
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)

    @staticmethod
    def clamp(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def divide(x: Any, y: Any) -> Tensor:
        return x / y  # type: ignore[no-any-return]

    @staticmethod
    def multiply_add(total: Tensor, x: Tensor, y: Any) -> Tensor:
        return torch.addcmul(total, x, y) if isinstance(y, Tensor) else total + x * y

    @staticmethod
    def greater(x: Any, y: Any) -> Tensor:
        return (x > y).to(x.dtype)


def _columns(values: Tensor) -> list[Tensor]:
    """One value for each coefficient: 0-dimensional, or (groups, 1)."""
    return list(values.unbind(-1)) if values.dim() == 1 else list(values.t().unsqueeze(-1).unbind(0))


def _beyond(config: Config, numerator: Tensor, denominator: Tensor) -> list[Tensor]:
    """See :class:`opau_onnx.formula.Coefficients`."""
    first = config.denominator_form.first
    size = numerator.new_zeros((config.groups, config.top + 1) if config.groups > 1 else (config.top + 1,))
    size[..., : config.numerator_size] += numerator.abs()
    size[..., first : first + config.denominator_size] += denominator.abs()
    tail = size.flip(-1).cumsum(-1).flip(-1)
    return _columns((tail == 0).to(numerator.dtype))[1:]


def _coefficients(config: Config, c: Tensor, d: Tensor, *, scaled: bool) -> formula.Coefficients:
    inner = d.abs() if config.denominator_form.absolute == "terms" else d
    return formula.Coefficients(_columns(c), _columns(inner), _beyond(config, c, d) if scaled else ())


def _rows(config: Config, x: Tensor, coefficients: formula.Coefficients) -> list[Any]:
    if config.top == 0:
        return formula.constant_rows(TorchOps(), x)
    if coefficients.beyond:
        return formula.scaled_basis(TorchOps(), config, x, coefficients.beyond)
    return formula.ordinary_basis(config, x)


class _Blockwise:
    """Coefficients prepared once; each block takes the ordinary basis if none of its elements is out of range.

    On an accelerator that question would cost a synchronisation, so every block takes the scaled basis there.
    """

    def __init__(self, config: Config, c: Tensor, d: Tensor, *, gradients: bool) -> None:
        self.config, self.c, self.d = config, c, d
        self.limit = ordinary_limit(config.top)
        self.ordinary = _coefficients(config, c, d, scaled=False)
        self.scaled: formula.Coefficients | None = None
        self.slopes = formula.derivatives(config, self.ordinary) if gradients else None

    def rows(self, x: Tensor) -> tuple[list[Any], formula.Coefficients]:
        if self._in_range(x):
            return _rows(self.config, x, self.ordinary), self.ordinary
        if self.scaled is None:
            self.scaled = _coefficients(self.config, self.c, self.d, scaled=True)
        return _rows(self.config, x, self.scaled), self.scaled

    def _in_range(self, x: Tensor) -> bool:
        if x.device.type != "cpu":
            return False
        low, high = (float(v) for v in x.aminmax())
        return -self.limit <= low and high <= self.limit  # False also for NaN

    def forward(self, x: Tensor) -> Tensor:
        rows, coefficients = self.rows(x)
        return formula.rational(TorchOps(), self.config, rows, coefficients)

    def gradient(self, x: Tensor, g: Tensor) -> formula.Gradient:
        rows, coefficients = self.rows(x)
        assert self.slopes is not None
        return formula.gradient(TorchOps(), self.config, rows, coefficients, self.slopes, g)


def _forward_blocks(config: Config, x: Tensor, c: Tensor, d: Tensor) -> Tensor:
    layout = Layout.of(x, config)
    flat = layout.flatten(x)
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    work = _Blockwise(config, c, d, gradients=False)
    for at in blocks(layout.shape, x.device.type):
        out[at] = work.forward(flat[at].to(c.dtype))
    return layout.restore(out, x)


def _sum(weight: Any, row: Any, config: Config) -> Tensor:
    """sum(weight * row) over the elements that share a coefficient, in float64."""
    product = weight * row if config.groups > 1 or not isinstance(row, Tensor) else None
    if config.groups > 1:
        return product.sum(dim=(0, 2)).double()
    if product is not None:
        return product.sum().double()
    if weight.dim() == 0 or weight.shape != row.shape:
        return (weight * row).sum().double()
    return torch.dot(weight.reshape(-1), row.reshape(-1)).double()


def _backward_blocks(
    config: Config, x: Tensor, c: Tensor, d: Tensor, g: Tensor, need: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    layout = Layout.of(x, config)
    flat, flat_g = layout.flatten(x), layout.flatten(g)
    shape = (config.groups,) if config.groups > 1 else ()
    sums_c = torch.zeros((config.numerator_size, *shape), dtype=torch.float64, device=x.device)
    sums_d = torch.zeros((config.denominator_size, *shape), dtype=torch.float64, device=x.device)
    need_x, need_coefficients = need
    dx = torch.empty_like(flat, memory_format=torch.contiguous_format) if need_x else None
    work = _Blockwise(config, c, d, gradients=True)
    for at in blocks(layout.shape, x.device.type):
        part = work.gradient(flat[at].to(c.dtype), flat_g[at].to(c.dtype))
        if dx is not None:
            dx[at] = part.x
        if need_coefficients:
            for i in range(config.numerator_size):
                sums_c[i] += _sum(part.weight, part.rows[i], config)
            for j, row in enumerate(part.denominator_rows):
                sums_d[j] += _sum(part.denominator_weight, row, config)
    return None if dx is None else layout.restore(dx, x), sums_c, sums_d


def _coefficient_gradient(config: Config, sums: Tensor, values: Tensor, *, signed: bool) -> Tensor:
    """Reduce (n, groups) to the shape of the coefficients, in their dtype."""
    total = (sums.sum(-1) if values.dim() == 1 else sums.t()) if config.groups > 1 else sums
    return total.to(values.dtype) * values.sign() if signed else total.to(values.dtype)


def _whole(config: Config, x: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Branch-free on the whole tensor, differentiable: for tracing and for double backward."""
    if config.groups == 1:
        return _rational(config, x, _coefficients(config, c, d, scaled=True), c.dtype)
    axis = config.check_input(tuple(x.shape))
    flat = x.unflatten(axis, (config.groups, x.shape[axis] // config.groups)).flatten(axis + 1)
    flat = flat.unsqueeze(0) if axis == 0 else flat.flatten(0, axis - 1)
    return _rational(config, flat, _coefficients(config, c, d, scaled=True), c.dtype).reshape(x.shape)


def _rational(config: Config, x: Tensor, coefficients: formula.Coefficients, dtype: torch.dtype) -> Tensor:
    wide = x.to(dtype)
    y = formula.rational(TorchOps(), config, _rows(config, wide, coefficients), coefficients)
    return y.expand_as(wide).to(x.dtype)


class _OrthogonalPade(torch.autograd.Function):
    """Forward and explicit backward, block by block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
        ctx.config = config
        ctx.save_for_backward(x, numerator, denominator)
        dtype = compute_dtype(x.dtype, numerator.dtype)
        return _forward_blocks(config, x, numerator.to(dtype), denominator.to(dtype))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, numerator, denominator = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself must be differentiable
            leaves = [t for t, need in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False) if need]
            found = iter(torch.autograd.grad(_wide(ctx.config, x, numerator, denominator), leaves, g, create_graph=True))
            return tuple(next(found) if need else None for need in ctx.needs_input_grad[:3]) + (None,)  # type: ignore[return-value]
        dtype = compute_dtype(x.dtype, numerator.dtype)
        c, d = numerator.to(dtype), denominator.to(dtype)
        need = ctx.needs_input_grad
        dx, sums_c, sums_d = _backward_blocks(ctx.config, x, c, d, g, (need[0], need[1] or need[2]))
        signed = ctx.config.denominator_form.absolute == "terms"
        dc = _coefficient_gradient(ctx.config, sums_c, numerator, signed=False) if need[1] else None
        dd = _coefficient_gradient(ctx.config, sums_d, denominator, signed=signed) if need[2] else None
        return dx, dc, dd, None


def _wide(config: Config, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    dtype = compute_dtype(x.dtype, numerator.dtype)
    return _whole(config, x, numerator.to(dtype), denominator.to(dtype))


def _by_blocks(x: Tensor) -> bool:
    """Eager tensors go block by block; traced or otherwise wrapped ones take the branch-free formula."""
    return type(x) in (Tensor, torch.nn.Parameter) and x.device.type != "meta" and not torch.compiler.is_compiling()


def _orthogonal_pade(
    x: Tensor, numerator: Tensor, denominator: Tensor, basis: str, form: str, degrees: list[int], groups: int, axis: int
) -> Tensor:
    config = Config(basis, form, (degrees[0], degrees[1]), groups, axis)
    config.check_coefficients(tuple(numerator.shape), tuple(denominator.shape))
    config.check_input(tuple(x.shape))
    if _by_blocks(x):
        return _OrthogonalPade.apply(x, numerator, denominator, config)  # type: ignore[no-any-return]
    return _wide(config, x, numerator, denominator)


_LIBRARY = torch.library.Library("opau", "DEF")
_LIBRARY.define(
    "orthogonal_pade(Tensor x, Tensor numerator, Tensor denominator, str basis, str form, int[] degrees, "
    "int groups, int axis) -> Tensor"
)
_LIBRARY.impl("orthogonal_pade", _orthogonal_pade, "CompositeImplicitAutograd")


def orthogonal_pade(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    """y = P(x) / Q(x), elementwise; see :mod:`opau_onnx.spec`.

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
    result: Tensor = torch.ops.opau.orthogonal_pade(
        x, numerator, denominator, config.basis, config.form, list(config.degrees), config.groups, config.axis
    )
    return result
