"""Coefficient tensors as the separate values that :mod:`opau_onnx.formula` takes, and what is said of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from opau_onnx import formula
from opau_onnx.spec import Config


def coefficients(config: Config, c: Tensor, d: Tensor, *, scaled: bool) -> formula.Coefficients:
    """Values as tensors that broadcast against (.., groups, inner): 0-dimensional, or (groups, 1).

    ``scaled`` adds what :func:`opau_onnx.formula.scaled_basis` needs.
    """
    inner = d.abs() if config.denominator_form.absolute == "terms" else d
    beyond = _columns(_beyond(config, c, d).to(c.dtype))[1:] if scaled else ()
    return formula.Coefficients(_columns(c), _columns(inner), beyond)


def shared_coefficients(config: Config, c: Tensor, d: Tensor, *, scaled: bool) -> formula.Coefficients:
    """The same as Python floats, for ``groups`` = 1 and tensors that the CPU holds."""
    numerator, denominator = c.tolist(), d.tolist()
    if config.denominator_form.absolute == "terms":
        denominator = [abs(v) for v in denominator]
    beyond = [float(v) for v in _beyond(config, c, d).tolist()[1:]] if scaled else ()
    return formula.Coefficients(numerator, denominator, beyond)


def _columns(values: Tensor) -> list[Any]:
    return list(values.unbind(-1)) if values.dim() == 1 else list(values.t().unsqueeze(-1).unbind(0))


def _beyond(config: Config, numerator: Tensor, denominator: Tensor) -> Tensor:
    """True where the coefficients of this degree and above are all zero, (m + 1,) or (groups, m + 1)."""
    first = config.denominator_form.first
    size = numerator.new_zeros((config.groups, config.top + 1) if config.groups > 1 else (config.top + 1,))
    size[..., : config.numerator_size] += numerator.abs()
    size[..., first : first + config.denominator_size] += denominator.abs()
    return size.flip(-1).cumsum(-1).flip(-1) == 0
