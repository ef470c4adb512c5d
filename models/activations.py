"""Activations by name, so that a checkpoint can say in JSON which one it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from opau_onnx.core.targets import eis, tanhsoft
from opau_onnx.errors import LoadError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade


class TanhSoft(nn.Module):
    """tanh(0.87 x) softplus(x), of the family of Biswas et al. (arXiv 2009.03863); input and output of any one shape.

    The paper tunes the four constants of a family; this is one of the two functions that its abstract reports. Computed in
    float32 at least, as PyTorch computes Mish.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        value: Tensor = tanhsoft(_wide(x), torch.tanh, softplus)
        return value.to(x.dtype)


class EIS(nn.Module):
    """x softplus(x) / sqrt(1 + x^2), of the family of Biswas et al. (arXiv 2009.13501); input and output of any one shape.

    The paper tunes the five constants of a family; this is one of the two functions that its abstract reports. Computed in
    float32 at least, where it holds up to 1e19.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        value: Tensor = eis(_wide(x), torch.sqrt, softplus)
        return value.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "tanhsoft": TanhSoft,
    "eis": EIS,
    "tanh": nn.Tanh,
    "hp1": HP1,
    "hp2": HP2,
    "opau_chebyshev": partial(OrthogonalPade, "chebyshev"),
    "opau_chebyshev_u": partial(OrthogonalPade, "chebyshev_u"),
    "opau_laguerre": partial(OrthogonalPade, "laguerre"),
    "opau_legendre": partial(OrthogonalPade, "legendre"),
    "pau_a": partial(PAU, "A"),
    "pau_b": partial(PAU, "B"),
}
"""Name -> maker of a new module at its defaults.

`silu` is also known as Swish, `pau_a` and `pau_b` are the safe PAU of equations F2 and F3; PReLU has one slope for a layer.
Every learned rational one starts as a fit to Leaky ReLU."""


def create_activation(name: str) -> nn.Module:
    """A new activation module.

    Raises:
        LoadError: a name that :data:`ACTIVATIONS` does not hold.
    """
    if name not in ACTIVATIONS:
        raise LoadError(f"unknown activation {name!r}; expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
