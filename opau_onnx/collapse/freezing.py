"""``freeze_model``: frozen activations of PyTorch modules that may change a little where that makes them cheaper."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.collapse.approximation.approximate import ApproximationBudget, Range, approximate
from opau_onnx.core.frozen import Frozen
from opau_onnx.core.plans import Evaluation
from opau_onnx.errors import CollapseError
from opau_onnx.nn import OrthogonalPade
from opau_onnx.nn.copying import copy_module
from opau_onnx.nn.freezing import freeze_as

_OPSET = 20
"""Counts for candidates that are no functions of the definition's family, of which there are none here."""


def freeze_model(model: nn.Module, tolerance: float, data: Iterable[Any]) -> nn.Module:
    """:func:`opau_onnx.nn.freeze` within a tolerance: functions of lower degrees that are cheaper and proven to stay within it.

    As ``opau-collapse --tolerance``, with the candidates that plain operators of PyTorch make: the definition's family.

    Args:
        model: any module; as for :func:`opau_onnx.nn.freeze`.
        tolerance: largest absolute error of each activation's result, before it is rounded to a 16-bit dtype.
        data: batches that the model is run on, in evaluation mode, to see the range of each activation's inputs: tensors, or
            tuples of positional arguments. The error is proven on that range and a quarter of its width at either end.

    Returns:
        The copy. The repr of each :class:`~opau_onnx.nn.FrozenActivation` says what was chosen, and its proven error. An
        activation stays exact where nothing cheaper is within the tolerance, or where its inputs reach beyond X0.

    Raises:
        CollapseError: the tolerance is no positive number, or an activation saw no finite input on the data.
        ReplacementError, SpecError: as :func:`opau_onnx.nn.freeze`.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise CollapseError(f"tolerance is {tolerance!r}; expected a positive number, or opau_onnx.nn.freeze for none")
    budget = ApproximationBudget(tolerance, _ranges(model, data), _OPSET)

    def choice(name: str, frozen: Frozen) -> tuple[Frozen, Evaluation, str]:
        if name not in budget.ranges:
            raise CollapseError(f"{name} saw no input on the data; give data that reaches it, or use opau_onnx.nn.freeze")
        found = approximate(frozen, name, budget, family_only=True)
        known = found.approximation
        assert known is not None
        said = f"{known.chosen}, off by at most {known.bound:.2g} on [{known.low:.3g}, {known.high:.3g}]"
        return found.frozen, found.scheme, said if known.chosen else "exact: nothing cheaper is within the tolerance"

    return freeze_as(model, choice)


def _ranges(model: nn.Module, data: Iterable[Any]) -> dict[str, Range]:
    """Inputs that each activation reads, by the name of its first place."""
    probe = copy_module(model).eval()
    seen: dict[str, Range] = {}
    for name, module in probe.named_modules():
        if isinstance(module, OrthogonalPade):
            module.register_forward_pre_hook(partial(_look, seen, name or type(module).__name__))
    with torch.no_grad():
        for batch in data:
            probe(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
    return seen


def _look(seen: dict[str, Range], name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0]
    if not x.numel():
        return
    low, high = float(x.min()), float(x.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CollapseError(f"the input of {name} is infinite or NaN on the data; expected finite numbers")
    before = seen.get(name, Range(low, high, 0))
    seen[name] = Range(min(before.low, low), max(before.high, high), before.count + x.numel())
