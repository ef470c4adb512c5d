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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from opau_onnx.core.bases import mean_squares
from opau_onnx.errors import SpecError
from opau_onnx.nn.modules import OrthogonalPade


def coefficient_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The coefficients of all learned activations, each once: for a parameter group of their own, without weight decay."""
    return [parameter for parameter, _ in _scaled(model)]


def balance(optimizer: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle:
    """Bring the coefficients' gradients to one scale before each step of an optimizer, so that deep networks stay steady.

    Each gradient is divided by the mean square of its basis function over standard normal inputs, just before the step: after
    a GradScaler's unscaling and after clipping. For optimizers whose steps are proportional to the gradient, as those of SGD
    are, with or without momentum. Adam's are not: there it changes nothing but the part of ``eps``.

    Args:
        optimizer: one that has coefficients of the model among its parameters.
        model: whose activations; the ones that it has now.

    Returns:
        A handle whose ``remove()`` ends it.

    Raises:
        SpecError: the optimizer has none of the model's coefficients, or they are computed (parametrized), so that what is
            learned is not they.
    """
    for name, module in _activations(model):
        if nn.utils.parametrize.is_parametrized(module):
            raise SpecError(
                f"the coefficients of {name!r} are parametrized: balance scales coefficients that are learned themselves"
            )
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    scales = [(parameter, scale) for parameter, scale in _scaled(model) if id(parameter) in own]
    if not scales:
        raise SpecError(
            "the optimizer has none of the coefficients of the model's learned activations: replace the activations first, "
            "then make the optimizer, then call balance"
        )

    def scale(*_: Any) -> None:
        for parameter, factors in scales:
            if parameter.grad is not None:
                parameter.grad.mul_(factors.to(parameter.grad))

    return optimizer.register_step_pre_hook(scale)


def _activations(model: nn.Module) -> Iterator[tuple[str, OrthogonalPade]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, OrthogonalPade))


def _scaled(model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Each coefficient tensor once, and what its gradient is multiplied by: one number for each column."""
    found: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for _, module in _activations(model):
        config = module.config
        scales = [1.0 / float(v) for v in mean_squares(config.basis, config.top + 1)]
        for name, start in (("numerator", 0), ("denominator", config.denominator_form.first)):
            parameter = module._parameters.get(name)
            if parameter is not None:
                chosen = torch.tensor(
                    scales[start : start + parameter.shape[-1]], dtype=parameter.dtype, device=parameter.device
                )
                found[id(parameter)] = parameter, chosen
    return list(found.values())
