"""The activations as functions: the modules' values, degrees from shapes, errors."""

from __future__ import annotations

import pytest
import torch

from opau_onnx.errors import SpecError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade, functional

X = torch.randn(2, 6, 5)


@pytest.mark.parametrize(
    ("module", "function", "options"),
    [
        (HP1(), functional.hp1, {}),
        (HP2(degrees=(3, 2), groups=3), functional.hp2, {"groups": 3}),
        (PAU("C"), functional.pau, {"version": "C"}),
        (PAU(), functional.pau, {}),
        (OrthogonalPade("legendre", (4, 0), "free", groups=5, axis=-1), functional.orthogonal_pade,
         {"basis": "legendre", "form": "free", "groups": 5, "axis": -1}),
    ],
)  # fmt: skip
def test_they_are_the_modules(module: OrthogonalPade, function: object, options: dict[str, object]) -> None:
    assert torch.equal(function(X, module.numerator, module.denominator, **options), module(X))  # type: ignore[operator]


def test_errors() -> None:
    c, d = torch.ones(6), torch.ones(4)
    with pytest.raises(SpecError, match="unknown denominator form 'abs'"):
        functional.orthogonal_pade(X, c, d, form="abs")
    with pytest.raises(SpecError, match="unknown PAU version 'E'"):
        functional.pau(X, c, d, "E")
    with pytest.raises(SpecError, match="single numbers"):
        functional.hp1(X, c, torch.tensor(1.0))
    with pytest.raises(SpecError, match="degrees"):
        functional.hp1(X, torch.ones(0), d)
    with pytest.raises(SpecError, match="the numerator has shape"):
        functional.hp1(X, torch.ones(2, 6), d)
    with pytest.raises(SpecError, match="the coefficients are complex64 and float32; expected floating types"):
        functional.hp1(X, c.to(torch.complex64), d)
    with pytest.raises(SpecError, match="the input is int64"):
        functional.hp1(torch.arange(3), c, d)
