"""Activations by name, so that a checkpoint can say in JSON which one it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from opau_onnx.errors import LoadError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
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
"""Name -> maker of a new module at its defaults; every learned one starts as a fit to Leaky ReLU."""


def create_activation(name: str) -> nn.Module:
    """A new activation module.

    Raises:
        LoadError: a name that :data:`ACTIVATIONS` does not hold.
    """
    if name not in ACTIVATIONS:
        raise LoadError(f"unknown activation {name!r}; expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
