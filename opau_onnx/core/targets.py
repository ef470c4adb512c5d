"""Known activation functions, as targets of the initial fit. All in float64, at PyTorch's default parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Function = Callable[[Any], Any]


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _gelu(x: Array) -> Array:
    from scipy.special import ndtr

    return np.asarray(x * ndtr(x))


def tanhsoft(x: Any, tanh: Function, softplus: Function) -> Any:
    """TanhSoft with alpha 0.87, beta 0, delta 1 (arXiv 2009.03863, abstract), in the arrays that the two functions take."""
    return tanh(0.87 * x) * softplus(x)


def eis(x: Any, sqrt: Function, softplus: Function) -> Any:
    """EIS with alpha 1, beta 1, gamma 1, delta 0: x softplus(x) / sqrt(1 + x^2) (arXiv 2009.13501, abstract), likewise."""
    return x * softplus(x) / sqrt(1.0 + x * x)


TARGETS: dict[str, Function] = {
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu": lambda x: np.maximum(x, 0.0),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "softplus": _softplus,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "tanhsoft": lambda x: tanhsoft(x, np.tanh, _softplus),
    "eis": lambda x: eis(x, np.sqrt, _softplus),
}
"""Name -> function. `silu` is also known as Swish; `leaky_relu` has slope 0.01, `prelu` starts at 0.25."""
