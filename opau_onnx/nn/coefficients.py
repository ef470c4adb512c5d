"""Coefficient tensors as the separate values that :mod:`opau_onnx.core.evaluation` takes, and what is said of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from opau_onnx.core import evaluation
from opau_onnx.core.spec import Config
from opau_onnx.nn.torch_ops import TorchOps

_OPS = TorchOps()


def coefficients(config: Config, c: Tensor, d: Tensor) -> evaluation.Coefficients:
    """Values as tensors that broadcast against (.., groups, inner): 0-dimensional, or (groups, 1)."""
    weights = config.denominator_form.mode.weight(_OPS, d)
    size, beyond = _used(config, c.detach(), d.detach())
    columns = _columns(beyond.to(c.dtype))[1:]
    return evaluation.Coefficients(_columns(c), _columns(weights), columns, _factor(config, size, beyond))


def _columns(values: Tensor) -> list[Any]:
    return list(values.unbind(-1)) if values.dim() == 1 else list(values.t().unsqueeze(-1).unbind(0))


def _used(config: Config, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """By degree, (m + 1,) or (groups, m + 1): the coefficients' size; True where this degree and those above have none."""
    first = config.denominator_form.first
    size = numerator.new_zeros((config.groups, config.top + 1) if config.groups > 1 else (config.top + 1,))
    size[..., : config.numerator_size] += numerator.abs()
    size[..., first : first + config.denominator_size] += denominator.abs()
    return size, size.flip(-1).cumsum(-1).flip(-1) == 0


def _factor(config: Config, size: Tensor, beyond: Tensor) -> Tensor | None:
    """As :func:`opau_onnx.core.spec.common_factor` says, 0-dimensional or (groups, 1)."""
    if config.top == 0:
        return None
    table = evaluation.factor_table(config)
    above = torch.cat([beyond[..., 1:], torch.ones_like(beyond[..., :1])], -1)
    # Term by term: a constant tensor would not survive ExportedProgram.run_decompositions().
    terms = torch.where(above & ~beyond, size, 0.0).unbind(-1)
    leading = sum((term * one for term, one in zip(terms, table.sizes, strict=True)), torch.zeros_like(terms[0]))
    factor = (table.enough / leading).clamp(1.0, table.most)
    return factor if config.groups == 1 else factor.unsqueeze(-1)
