"""compare(): what is equal, what is not, and in what units."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from opau_onnx.compare.grids import DENSE, grid
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, compare, spacing

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-6], True),
        ([1.0, 2.0], [1.0, 2.0 + 2e-5], False),
        ([NAN, 1.0], [NAN, 1.0], True),
        ([NAN, 1.0], [0.0, 1.0], False),
        ([0.0, 1.0], [NAN, 1.0], False),
        ([INF, -INF], [INF, -INF], True),
        ([INF, 1.0], [-INF, 1.0], False),
        ([INF, 1.0], [3e38, 1.0], False),
        ([1.0, 1.0], [INF, 1.0], False),
        ([], [], True),
        ([1.0, 2.0], [1.0], False),
    ],
)
def test_verdicts(expected: list[float], actual: list[float], equal: bool) -> None:
    found = compare("t", np.float32(expected), np.float32(actual), "float32", atol=1e-5)
    assert found.equal is equal
    assert (found.tolerance_used <= 1) is equal
    json.dumps(found.as_dict(), allow_nan=False)


def test_an_infinite_tolerance_still_finds_nan() -> None:
    assert compare("t", [1.0], [INF], "float32", atol=INF).equal
    assert not compare("t", [1.0], [NAN], "float32", atol=INF).equal


def test_the_worst_place_is_that_of_the_tolerance() -> None:
    found = compare("t", [[1.0, 100.0]], [[1.1, 101.0]], "float32", atol=0.01, rtol=0.1)
    assert found.worst_index == (0, 0)
    assert found.max_abs_error == pytest.approx(1.0)
    assert (found.expected, found.actual) == (1.0, 1.1)
    assert found.tolerance_used == pytest.approx(0.1 / 0.11)


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "float32"), (np.float64, "float64"), (np.float16, "float16")])
def test_units_in_the_last_place(dtype: type, kind: str) -> None:
    values = np.array([1.0, 1.999, 2.0, 0.1, 3e4], dtype=dtype)
    assert np.array_equal(spacing(values.astype(np.float64), kind), np.spacing(values).astype(np.float64))
    nudged = np.nextafter(values, dtype(np.inf))
    assert compare("t", values, nudged, kind, atol=1.0).max_ulp_error == 1.0
    assert UNIT_ROUNDOFF[kind] == np.finfo(dtype).eps / 2


def test_ulp_at_a_given_magnitude() -> None:
    assert compare("t", [1e-9], [2e-9], "float32", atol=1.0, ulp_at=1.0).max_ulp_error == pytest.approx(1e-9 * 2**23)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_grid_is_hard(dtype: torch.dtype) -> None:
    x = grid(dtype)
    info = torch.finfo(dtype)
    assert x.dtype == dtype
    assert x.isnan().sum() == 1
    assert x.isinf().sum() == 2
    assert (x == 0).sum() >= 2
    assert info.max in x
    assert x[x > 0].min() <= info.smallest_normal * 1.01
    dense = x[x.abs() <= DENSE]
    assert len(dense) >= 4801


def test_the_tolerance_that_is_reported_is_that_of_the_worst_element() -> None:
    """Not the largest, which an element of another magnitude may have: 1e33 beside an error of 1e-6 says nothing."""
    found = compare("y", [1.0, 1e30], [1.5, 1e30], "float32", atol=np.array([1.0, 1e25]))
    assert (found.atol, found.worst_index, found.tolerance_used) == (1.0, (0,), 0.5)
    anything = compare("y", [1.0, np.inf], [1.0, 2.0], "float32", atol=np.array([0.5, np.inf]))
    assert anything.atol == 0.5
