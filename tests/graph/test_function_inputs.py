"""Inputs and coefficients at the edges of the definition, through the function bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import COEFFICIENT_LIMIT, Config
from tests.export import single
from tests.export.single import Case

GROUPED = {"rows for both": (True, True), "shared numerator": (False, True), "shared denominator": (True, False)}


def zeroed(values: tuple[Any, Any], top: int, bottom: int) -> tuple[Any, Any]:
    """The coefficients with the ``top`` leading ones of the numerator and ``bottom`` of the denominator set to zero."""
    changed = [np.array(v) for v in values]
    for array, count in zip(changed, (top, bottom), strict=True):
        if count:
            array[..., -count:] = 0.0
    return changed[0], changed[1]


@pytest.mark.parametrize("form", FORMS)
def test_leading_coefficients_of_zero(form: str) -> None:
    """The degree in use falls; far out P / Q must still not become 0 / 0. The coefficients are inputs of the model."""
    case = Case(Config("hermite_e", form, (5, 4)))
    runners = single.runners(single.model(case, [None]))
    x, values = single.inputs(case), single.coefficients(case)
    count = len(values[1])
    bottoms = [0, 1, 3] + ([count] if form != "free" else [])  # all zero: `free` would divide by zero
    for top in (0, 1, 3, 5, 6):
        for bottom in bottoms:
            used = zeroed(values, top, bottom)
            for name, run in runners.items():
                single.check(case, x, used, run(x, *used)[0], f"{name}, {top} and {bottom} zeros")


def test_leading_zeros_in_one_group_only() -> None:
    case = Case(Config("laguerre", "abs_sum", (4, 5), groups=3), per_group=(True, True))
    c, d = single.coefficients(case)
    c[0, 2:], d[0, 1:], c[1], d[2] = 0.0, 0.0, 0.0, 0.0
    x = single.inputs(case).reshape(-1, 3)
    for name, run in single.runners(single.model(case, [None, 3], (c, d))).items():
        single.check(case, x, (c, d), run(x)[0], name)


@pytest.mark.parametrize("form", ["abs_terms", "abs_sum", "pau_c"])
@pytest.mark.parametrize("degrees", [(5, 4), (4, 16), (16, 15)])
def test_coefficients_up_to_the_limit(form: str, degrees: tuple[int, int]) -> None:
    """The largest ones allowed, next to the smallest."""
    case = Case(Config("hermite", form, degrees))
    run = single.runners(single.model(case, [None]))["onnxruntime"]
    x = single.inputs(case, 200)
    for low, high in ((-24, 24), (20, 24), (-24, -20)):
        values = tuple(
            np.clip(np.exp2(case.rng().uniform(low, high, v.shape)) * np.sign(v), -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)
            .astype(np.float32) for v in single.coefficients(case)
        )  # fmt: skip
        single.check(case, x, (values[0], values[1]), run(x, *values)[0], f"2**{low} .. 2**{high}")


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_empty_tensors(shape: tuple[int, ...], static: bool) -> None:
    case = Case(Config(degrees=(2, 2)))
    run_shape(case, shape, static)


@pytest.mark.parametrize(("shape", "axis"), [
    ((0, 4), 1), ((3, 0), 1), ((0, 0), 1), ((0, 4), -1), ((2, 4, 0), 1), ((0, 3), 0), ((4, 0), 0), ((2, 0, 4, 3), 2),
    ((0, 2, 4), -1), ((2, 3, 0), -1),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_empty_tensors_in_groups(shape: tuple[int, ...], axis: int, static: bool) -> None:
    """No batch, no channels, no pixels: sizes that -1 in a Reshape could not tell."""
    run_shape(Case(Config(degrees=(2, 2), groups=2, axis=axis), per_group=(True, True)), shape, static)


@pytest.mark.parametrize("dtype", single.NUMPY)
@pytest.mark.parametrize("degrees", [(0, 0), (3, 2)], ids=str)
def test_scalars(dtype: str, degrees: tuple[int, int]) -> None:
    run_shape(Case(Config(degrees=degrees), dtype), (), static=True)


@pytest.mark.parametrize(("shape", "axis"), [
    ((4,), 0), ((4,), -1), ((2, 3, 4), -1), ((2, 3, 4, 5), 2), ((2, 3, 1, 4, 5), 3), ((2, 4, 3, 1, 2), -4),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("rows", GROUPED)
def test_every_channel_has_the_row_of_its_group(shape: tuple[int, ...], axis: int, rows: str) -> None:
    run_shape(Case(Config(degrees=(2, 3), groups=2, axis=axis), per_group=GROUPED[rows]), shape, static=False)


def run_shape(case: Case, shape: tuple[int, ...], static: bool) -> None:
    x = case.rng().uniform(-3, 3, shape).astype(single.NUMPY[case.dtype])
    values = single.coefficients(case)
    runners = single.runners(single.model(case, list(shape) if static else [None] * len(shape), values))
    if case.config.groups > 1 and 0 in shape[: case.config.axis]:
        del runners["ReferenceEvaluator"]  # its Flatten reshapes to (0, -1), which numpy refuses
    for name, run in runners.items():
        (y,) = run(x)
        assert y.shape == shape
        single.check(case, x, values, y, name)


def test_float16_computes_in_float32() -> None:
    """x**5 would overflow float16 at 9."""
    case = Case(Config("power", "abs_terms", (5, 4)), "float16")
    x = np.array([9.5, 100.0, 6e4, -6e4], dtype=np.float16)
    values = (np.array([0, 0.5, 0, 0, 0, 1e-3], np.float32), np.array([0, 0, 0, 1e-3], np.float32))
    for name, run in single.runners(single.model(case, [None], values)).items():
        (y,) = run(x)
        assert np.isfinite(y).all()
        single.check(case, x, values, y, name)


def test_float32_coefficients_are_not_rounded_to_the_inputs_dtype() -> None:
    """0.1 in float32 times 2048 differs from 0.1 in float16 times 2048 by a whole step of float16."""
    case = Case(Config("power", "abs_terms", (1, 0)), "float16")
    values = (np.array([0, 0.1], np.float32), np.zeros(0, np.float32))
    x = np.arange(1000, 2049, dtype=np.float16)
    for run in single.runners(single.model(case, [None], values)).values():
        assert np.array_equal(run(x)[0], single.wide((x.astype(np.float32) * np.float32(0.1)).astype(np.float16)))
