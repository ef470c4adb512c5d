"""Coefficient tensors as the separate values that :mod:`opau_onnx.core.evaluation` takes, and what is said of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from opau_onnx.core import evaluation
from opau_onnx.core.spec import Config
from opau_onnx.nn.torch_ops import TorchOps

_OPS = TorchOps()


def coefficients(config: Config, c: Tensor, d: Tensor, *, scaled: bool) -> evaluation.Coefficients:
    """Values as tensors that broadcast against (.., groups, inner): 0-dimensional, or (groups, 1).

    ``scaled`` adds what :func:`opau_onnx.core.evaluation.scaled_basis` needs.
    """
    weights = config.denominator_form.mode.weight(_OPS, d)
    beyond = _columns(_beyond(config, c, d).to(c.dtype))[1:] if scaled else ()
    return evaluation.Coefficients(_columns(c), _columns(weights), beyond)


def fused_coefficients(config: Config, c: Tensor, d: Tensor) -> evaluation.Coefficients:
    """Coefficients of :func:`opau_onnx.core.evaluation.fused_basis`, on the CPU; floats where all elements share them."""
    c_factors, d_factors = fused_factors(config)
    d = config.denominator_form.mode.weight(_OPS, d)
    if config.groups > 1:
        factors = (torch.tensor(f, dtype=c.dtype) for f in (c_factors, d_factors))
        return evaluation.Coefficients(*(_columns(v * f) for v, f in zip((c, d), factors, strict=True)))
    pairs = ((c, c_factors), (d, d_factors))
    return evaluation.Coefficients(*([v * f for v, f in zip(values.tolist(), some, strict=True)] for values, some in pairs))


@lru_cache(maxsize=256)
def fused_factors(config: Config) -> tuple[list[float], list[float]]:
    """Factors from numerator and denominator coefficients, and back from their gradients, to those of the fused basis."""
    alpha = [float(v) for v in evaluation.fused_factors(config.basis, config.top)]
    form = config.denominator_form
    d_factors = alpha[form.first : form.first + config.denominator_size]
    return alpha[: config.numerator_size], [form.mode.weight(_OPS, v) for v in d_factors]


def _columns(values: Tensor) -> list[Any]:
    return list(values.unbind(-1)) if values.dim() == 1 else list(values.t().unsqueeze(-1).unbind(0))


def _beyond(config: Config, numerator: Tensor, denominator: Tensor) -> Tensor:
    """True where the coefficients of this degree and above are all zero, (m + 1,) or (groups, m + 1)."""
    first = config.denominator_form.first
    size = numerator.new_zeros((config.groups, config.top + 1) if config.groups > 1 else (config.top + 1,))
    size[..., : config.numerator_size] += numerator.abs()
    size[..., first : first + config.denominator_size] += denominator.abs()
    return size.flip(-1).cumsum(-1).flip(-1) == 0
