"""The activation in keras.ops, with explicit gradients: automatic ones of the scaled formula are NaN far out.

Branch-free on the whole tensor: every element is computed by the scaled formula, which is right everywhere.
"""

from __future__ import annotations

from typing import Any

from keras import backend, ops

from opau_onnx.core import evaluation, gradient
from opau_onnx.core.evaluation import Coefficients
from opau_onnx.core.spec import Config
from opau_onnx.keras.ops import KerasOps

_OPS = KerasOps()
_INFERENCE_ONLY = ("numpy", "openvino")
"""Backends that have no gradients."""


def orthogonal_pade(x: Any, numerator: Any, denominator: Any, config: Config) -> Any:
    """y = P(x) / Q(x), elementwise, differentiable once in reverse mode; see :mod:`opau_onnx.core.spec`.

    Args:
        x: any shape; the size of the channel axis must be known where there are groups.
        numerator, denominator: coefficients, float32 or float64, shapes as ``config`` allows.
        config: which function.

    Returns:
        A tensor of x's shape and dtype, computed in the coefficients' dtype.
    """

    def function(x: Any, c: Any, d: Any) -> Any:
        def differentiate(*arguments: Any, upstream: Any = None) -> Any:
            return backward(config, x, c, d, arguments[0] if upstream is None else upstream)

        return forward(config, x, c, d), differentiate

    if backend.backend() in _INFERENCE_ONLY:
        return forward(config, x, numerator, denominator)
    return ops.custom_gradient(function)(x, numerator, denominator)


def forward(config: Config, x: Any, c: Any, d: Any) -> Any:
    """y, of x's shape and dtype."""
    values = _coefficients(config, x.shape, c, d)
    wide = ops.cast(x, c.dtype)
    return ops.cast(evaluation.value(_OPS, config, wide, values), x.dtype)


def backward(config: Config, x: Any, c: Any, d: Any, g: Any) -> tuple[Any, Any, Any]:
    """Gradients of sum(g * y) by x, c and d."""
    values = _coefficients(config, x.shape, c, d)
    wide, wide_g = ops.cast(x, c.dtype), ops.cast(g, c.dtype)
    if config.top == 0:
        rows, lower = evaluation.constant_rows(_OPS, wide), None
    else:
        rows, lower = evaluation.scaled_bases(_OPS, config, wide, values.beyond)
    part = gradient.gradient(_OPS, config, rows, values, gradient.derivatives(config, values), wide_g, lower)
    dx = ops.cast(part.x_weight * part.slope, x.dtype)
    dc = _sums(config, [part.weight * row for row in part.rows[: config.numerator_size]], c)
    dd = _sums(config, [part.denominator_weight * row for row in part.denominator_rows], d)
    slope = config.denominator_form.mode.weight_slope(_OPS, d)
    if slope is not None:  # dd is by the weights, and may be infinite where a weight of 0 stands above all others
        dd = ops.where(slope == 0, ops.zeros_like(dd), dd * slope)
    return dx, dc, dd


def _coefficients(config: Config, shape: Any, c: Any, d: Any) -> Coefficients:
    """The coefficients as values that broadcast against x."""
    weights = config.denominator_form.mode.weight(_OPS, d)
    numerator, denominator = _columns(config, shape, c), _columns(config, shape, weights)
    sizes = _sizes(config, numerator, denominator)
    beyond = _beyond(sizes)
    return Coefficients(numerator, denominator, beyond, _factor(config, sizes, beyond))


def _columns(config: Config, shape: Any, values: Any) -> list[Any]:
    if len(values.shape) == 1:
        return [values[i] for i in range(values.shape[0])]
    axis = config.check_input(tuple(shape))
    each = shape[axis] // config.groups
    trailing = (1,) * (len(shape) - axis - 1)
    return [ops.reshape(ops.repeat(values[:, i], each), (shape[axis], *trailing)) for i in range(values.shape[1])]


def _sizes(config: Config, c: list[Any], d: list[Any]) -> list[Any]:
    """For i = 1 .. m, how large the coefficients of this degree are together."""
    both = ((c, 0), (d, config.denominator_form.first))
    parts = ([ops.abs(v[i - start]) for v, start in both if 0 <= i - start < len(v)] for i in range(1, config.top + 1))
    return [sum(part[1:], part[0]) for part in parts]


def _beyond(sizes: list[Any]) -> list[Any]:
    """For i = 1 .. m, 1 where every coefficient of degree i and above is zero, else 0."""
    total: Any = 0.0
    found = []
    for size in reversed(sizes):
        total = size + total
        found.append(ops.cast(total == 0.0, size.dtype))
    return found[::-1]


def _factor(config: Config, sizes: list[Any], beyond: list[Any]) -> Any:
    """As :func:`opau_onnx.core.spec.common_factor` says."""
    if config.top == 0:
        return None
    table = evaluation.factor_table(config)
    leading: Any = 0.0
    for i, size in enumerate(sizes):
        above: Any = beyond[i + 1] if i + 1 < len(sizes) else 1.0
        leading = leading + size * (above - beyond[i]) * table.sizes[i + 1]
    return ops.clip(table.enough / ops.stop_gradient(leading), 1.0, table.most)


def _sums(config: Config, products: list[Any], like: Any) -> Any:
    """Each product summed over the elements that share a coefficient, in the shape of the coefficients."""
    if not products:
        return ops.zeros_like(like)
    if len(like.shape) == 1:
        return ops.stack([ops.sum(v) for v in products])
    rank = len(products[0].shape)
    axis = config.axis % rank
    others = [i for i in range(rank) if i != axis]
    columns = [ops.sum(v, axis=others) if others else v for v in products]
    return ops.stack([ops.sum(ops.reshape(v, (config.groups, -1)), axis=1) for v in columns], axis=1)
