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
    """Values as tensors that broadcast against (.., groups, inner): 0-dimensional, or (groups, 1).

    One by one and elementwise, also where a sum along the degrees would do: this is what the decomposition of an exported
    program holds, and converters take neither cumsum nor slices that are written to.
    """
    numerator, denominator = _columns(c), _columns(d)
    weights = [config.denominator_form.mode.weight(_OPS, value) for value in denominator]
    sizes = _sizes(config, numerator, denominator)
    beyond = _beyond(sizes)
    return evaluation.Coefficients(numerator, weights, [v.to(c.dtype) for v in beyond[1:]], _factor(config, sizes, beyond))


def _columns(values: Tensor) -> list[Tensor]:
    return list(values.unbind(-1)) if values.dim() == 1 else [column.unsqueeze(-1) for column in values.unbind(-1)]


def _sizes(config: Config, numerator: list[Tensor], denominator: list[Tensor]) -> list[Tensor]:
    """By degree: how large its coefficients are."""
    first = config.denominator_form.first
    found = []
    for i in range(config.top + 1):
        parts = [values[j].abs() for values, j in ((numerator, i), (denominator, i - first)) if 0 <= j < len(values)]
        found.append(parts[0] + parts[1] if len(parts) > 1 else parts[0])
    return found


def _beyond(sizes: list[Tensor]) -> list[Tensor]:
    """By degree: True where it and those above have no coefficient."""
    found: list[Tensor] = []
    total: Any = 0.0
    for size in reversed(sizes):
        total = size + total
        found.append(total == 0)
    return found[::-1]


def _factor(config: Config, sizes: list[Tensor], beyond: list[Tensor]) -> Tensor | None:
    """As :func:`opau_onnx.core.spec.common_factor` says."""
    if config.top == 0:
        return None
    table = evaluation.factor_table(config)
    leading = sizes[-1] * table.sizes[-1]
    for i in range(1, config.top):
        leading = leading + torch.where(beyond[i + 1], sizes[i], 0.0) * table.sizes[i]
    # P and Q share it, so that no gradient flows through it; a decomposition has none, and detach would stay in it as a copy.
    if torch.is_grad_enabled() or not torch.compiler.is_exporting():
        leading = leading.detach()
    return (table.enough / leading).clamp(1.0, table.most)
