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
    rows = evaluation.scaled_basis(_OPS, config, wide, values.beyond) if config.top else evaluation.constant_rows(_OPS, wide)
    return ops.cast(evaluation.rational(_OPS, config, rows, values), x.dtype)


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
    return dx, dc, dd if slope is None else dd * slope


def _coefficients(config: Config, shape: Any, c: Any, d: Any) -> Coefficients:
    """The coefficients as values that broadcast against x."""
    weights = config.denominator_form.mode.weight(_OPS, d)
    numerator, denominator = _columns(config, shape, c), _columns(config, shape, weights)
    return Coefficients(numerator, denominator, _beyond(config, numerator, denominator))


def _columns(config: Config, shape: Any, values: Any) -> list[Any]:
    if len(values.shape) == 1:
        return [values[i] for i in range(values.shape[0])]
    axis = config.check_input(tuple(shape))
    each = shape[axis] // config.groups
    trailing = (1,) * (len(shape) - axis - 1)
    return [ops.reshape(ops.repeat(values[:, i], each), (shape[axis], *trailing)) for i in range(values.shape[1])]


def _beyond(config: Config, c: list[Any], d: list[Any]) -> list[Any]:
    """For i = 1 .. m, 1 where every coefficient of degree i and above is zero, else 0."""
    first = config.denominator_form.first
    total: Any = 0.0
    found = []
    for i in range(config.top, 0, -1):
        present = [ops.abs(v[i - start]) for v, start in ((c, 0), (d, first)) if 0 <= i - start < len(v)]
        total = sum(present, total)
        found.append(ops.cast(total == 0.0, present[0].dtype))
    return found[::-1]


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
