"""Coefficients between the Keras layer and the PyTorch module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from opau_onnx import nn
from opau_onnx.keras.layer import OrthogonalPade


def from_torch(module: nn.OrthogonalPade, *, axis: int | None = None, **options: Any) -> OrthogonalPade:
    """A built layer with the module's coefficients.

    Args:
        module: what to copy.
        axis: the channel axis in Keras, where it is another one: -1 for images with channels last.
        options: of keras.layers.Layer, ``name`` say.
    """
    config = module.config
    coefficients = [p.detach().cpu() for p in (module.numerator, module.denominator)]
    wide = any(v.dtype == torch.float64 for v in coefficients)
    layer = OrthogonalPade(
        config.basis, config.degrees, config.form, groups=config.groups, axis=config.axis if axis is None else axis,
        shared_numerator=config.groups > 1 and coefficients[0].dim() == 1,
        shared_denominator=config.groups > 1 and coefficients[1].dim() == 1,
        init=None, **{"dtype": "float64" if wide else None, **options},
    )  # fmt: skip
    at = layer.config.axis
    shape = [config.groups] * (at + 1 if at >= 0 else -at)  # any that has the axis
    layer.build(tuple(shape))
    layer.set_weights([v.double().numpy() for v in coefficients])
    return layer


def to_torch(layer: OrthogonalPade, *, axis: int | None = None) -> nn.OrthogonalPade:
    """A PyTorch module, on the CPU, with the layer's coefficients; ``axis`` as in :func:`from_torch`.

    Raises:
        ValueError: the layer is not built yet.
    """
    if not layer.built:
        raise ValueError(f"the layer {layer.name} has no coefficients yet; build it or call it first")
    config = layer.config if axis is None else replace(layer.config, axis=axis)
    values = [torch.from_numpy(v.copy()) for v in layer.get_weights()]
    return nn.OrthogonalPade.from_coefficients(values[0], values[1], config)
