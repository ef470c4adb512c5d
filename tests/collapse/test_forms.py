"""The records of the forms, and the pass that runs them."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from opau_onnx.collapse.forms import FORMS, CollapsePass, form_of, remove_unused
from opau_onnx.core.spec import DOMAIN, OP_TYPE, Config
from opau_onnx.errors import CollapseError
from opau_onnx.graph.nodes import opau_nodes
from tests.export import single


def learned() -> ir.Model:
    """One activation with stored coefficients."""
    case = single.Case(Config(), opset=21)
    return ir.from_proto(single.model(case, (2, 3), single.coefficients(case)))


def test_forms_are_found_by_name() -> None:
    assert all(form_of(name) is form and form.name == name for name, form in FORMS.items())
    with pytest.raises(CollapseError, match="the form is 'linear'; expected one of fused, lut, standard"):
        form_of("linear")


@pytest.mark.parametrize("name", ["fused", "standard"])
def test_the_pass_says_whether_it_changed_the_model(name: str) -> None:
    model = learned()
    run = CollapsePass(form_of(name))
    assert run(model).modified
    assert len(run.replaced) == 1
    assert not opau_nodes(model)
    again = CollapsePass(form_of(name))
    assert not again(model).modified
    assert again.replaced == []


def test_what_nothing_uses_is_removed_and_the_rest_kept() -> None:
    model = learned()
    assert (DOMAIN, OP_TYPE) in {key[:2] for key in model.functions}
    kept = len(model.graph.initializers)
    remove_unused(model)
    assert len(model.graph.initializers) == kept, "the node still reads its coefficients"
    assert (DOMAIN, OP_TYPE) in {key[:2] for key in model.functions}
    CollapsePass(form_of("standard"))(model)
    remove_unused(model)
    assert not model.functions
    assert DOMAIN not in model.graph.opset_imports
    assert not any(name in model.graph.initializers for name in ("numerator", "denominator"))
