"""The modes of denominators against the definition's own formulas."""

from __future__ import annotations

import numpy as np
import pytest

from opau_onnx.core.denominators import FORMS, MODES, Mode
from opau_onnx.core.numpy_ops import NumpyOps

OPS = NumpyOps()
TERM = {"terms": np.abs, "sum": lambda t: t, "none": lambda t: t}
OUTER = {"terms": lambda s: s, "sum": np.abs, "none": lambda s: s}
D, F = np.meshgrid(np.array([-2.5, -0.75, 0.5, 3.0]), np.array([-4.0, -0.125, 0.25, 2.0]))


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_terms_are_weights_times_rows(mode: Mode) -> None:
    np.testing.assert_array_equal(mode.weight(OPS, D) * mode.row(OPS, F), TERM[mode.name](D * F))
    np.testing.assert_array_equal(mode.outer(OPS, F), OUTER[mode.name](F))
    np.testing.assert_array_equal(mode.weight(OPS, mode.coefficient(mode.weight(OPS, D))), mode.weight(OPS, D))
    np.testing.assert_allclose(mode.row(OPS, 8.0 * F), 8.0**mode.power * mode.row(OPS, F))


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["weight", "row", "outer"])
def test_slopes_are_derivatives(mode: Mode, name: str) -> None:
    step = 2.0**-20
    value, slope = getattr(mode, name), getattr(mode, f"{name}_slope")(OPS, F)
    measured = (value(OPS, F + step) - value(OPS, F - step)) / (2 * step)
    np.testing.assert_allclose(np.broadcast_to(1.0 if slope is None else slope, F.shape), measured, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_flags_say_what_the_functions_do(mode: Mode) -> None:
    assert mode.by_term == bool((mode.row(OPS, F) != F).any())
    assert mode.on_sum == bool((mode.outer(OPS, F) != F).any())


def test_every_mode_is_used_and_listed_once() -> None:
    assert len({mode.name for mode in MODES}) == len(MODES)
    assert {form.mode for form in FORMS.values()} == set(MODES)
    assert all(name == form.name for name, form in FORMS.items())
