"""The forms of a collapsed model: one record each. A new form is a function in ``passes/`` and its record here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from opau_onnx.collapse.approximation.approximate import ApproximationBudget
from opau_onnx.collapse.passes import fused, lookup, standard
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.errors import CollapseError


@dataclass(frozen=True)
class CollapseForm:
    """How a collapsed file holds an activation.

    Attributes:
        name: as users give it.
        replace: replaces every activation of a model, within a budget where there is one; gives a record of each.
        quantized: it is for quantized models, which are compared with the float model too.
    """

    name: str
    replace: Callable[[ir.Model, ApproximationBudget | None], list[CollapsedActivation]]
    quantized: bool = False


FORMS = {
    form.name: form
    for form in (
        CollapseForm("fused", fused.replace_activations),
        CollapseForm("lut", lookup.replace_activations, quantized=True),
        CollapseForm("standard", standard.replace_activations),
    )
}


def form_of(name: str) -> CollapseForm:
    """Return the form of this name; raise CollapseError for an unknown one."""
    if name not in FORMS:
        raise CollapseError(f"the form is {name!r}; expected one of {', '.join(FORMS)}")
    return FORMS[name]


class CollapsePass(ir.passes.InPlacePass):  # type: ignore[misc]
    """Replace every learned activation by a fixed one.

    Attributes:
        form, allowed: what to write, and how much activations may change; None: by rounding only.
        replaced: a record of each, after the pass.
    """

    def __init__(self, form: CollapseForm, allowed: ApproximationBudget | None = None) -> None:
        super().__init__()
        self.form, self.allowed = form, allowed
        self.replaced: list[CollapsedActivation] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raise CollapseError where it cannot be done; the model is unchanged then."""
        self.replaced = self.form.replace(model, self.allowed)
        return ir.passes.PassResult(model, modified=bool(self.replaced))


def remove_unused(model: ir.Model) -> Any:
    """Drop the coefficients, functions and domains that nothing uses any more."""
    for name in [n for n, value in model.graph.initializers.items() if not value.uses() and not value.is_graph_output()]:
        del model.graph.initializers[name]
    return ir.passes.Sequential(common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass())(model)
