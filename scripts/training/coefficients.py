"""The coefficients of learned activations in training: which they are, and the scale on which they are learned.

Their gradients differ by orders of magnitude: that of c_i is a sum over f_i(x). For a standard normal x, which is what a batch
norm hands on, the root mean square of f_0 is 1, that of f_5 is 11 in the probabilists' Hermite basis and 540 in the
physicists'. With one learning rate for all, SGD throws the highest coefficients about and the network with them: the slope of
an activation beyond its bends, c_k / d_l, grows from 0.3 to 60, and the loss ends in NaN. So each gradient is divided by the
mean square of its basis function: SGD on the coefficients of basis functions that all have mean square 1. docs/training.md
has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn

from opau_onnx.core.bases import polynomials
from opau_onnx.nn import OrthogonalPade


def coefficients(model: nn.Module) -> list[nn.Parameter]:
    """Those of all learned activations, each once."""
    return [p for module in _activations(model) for p in (module.numerator, module.denominator)]


def _activations(model: nn.Module) -> Iterator[OrthogonalPade]:
    return (module for module in model.modules() if isinstance(module, OrthogonalPade))


@cache
def mean_squares(basis: str, count: int) -> tuple[Fraction, ...]:
    """E f_n(x)^2 of a standard normal x for n from 0 to count - 1, exactly."""
    # E x^(2m) = 1 * 3 * ... * (2m - 1); odd moments are 0.
    moments = [Fraction(prod(range(1, m, 2)) if m % 2 == 0 else 0) for m in range(2 * count)]
    return tuple(
        sum((a * b * moments[i + j] for i, a in enumerate(row) for j, b in enumerate(row) if a and b), Fraction(0))
        for row in polynomials(basis).monomials[:count]
    )


def gradient_scales(model: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """For each coefficient tensor what its gradient is multiplied by, one number for each column."""
    found = []
    for module in _activations(model):
        config = module.config
        first = config.denominator_form.first
        scales = [1.0 / float(v) for v in mean_squares(config.basis, config.top + 1)]
        for parameter, start in ((module.numerator, 0), (module.denominator, first)):
            chosen = scales[start : start + parameter.shape[-1]]
            found.append((parameter, torch.tensor(chosen, dtype=parameter.dtype, device=parameter.device)))
    return found


def balance(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Scale the coefficients' gradients before each step of an optimizer, as this module's docstring says.

    For optimizers whose steps are proportional to the gradient (SGD); Adam's are not.
    """
    scales = gradient_scales(model)

    def scale(*_: Any) -> None:
        for parameter, factors in scales:
            if parameter.grad is not None:
                parameter.grad.mul_(factors)

    optimizer.register_step_pre_hook(scale)
