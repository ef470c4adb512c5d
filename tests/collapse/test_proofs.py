"""Each part of the approximation's proof with the violation that it is there for."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from opau_onnx.collapse.approximation import table
from opau_onnx.collapse.approximation.intervals import Interval, IntervalOps, single
from opau_onnx.core.frozen import Frozen
from opau_onnx.core.spec import Config
from tests.cases import case

RNG = np.random.default_rng(4)
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
    "divide": lambda x, y: IntervalOps().divide(x, y) if isinstance(x, Interval) else x / y,
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_rounded_outward(name: str) -> None:
    """A point has an interval around it, in which the exact result lies, though float64 cannot hold it."""
    operation = OPERATIONS[name]
    a, b = (RNG.uniform(0.1, 3, 300) * RNG.choice([-1.0, 1.0], 300) for _ in range(2))
    found = operation(Interval(a, a), Interval(b, b))
    for x, y, low, high in zip(a, b, found.low, found.high, strict=True):
        exact = operation(Fraction(float(x)), Fraction(float(y)))
        assert Fraction(float(low)) < exact < Fraction(float(high))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_enclosure_of_float32_holds_what_float32_computes(name: str) -> None:
    operation = OPERATIONS[name]
    a, b = (np.float32(RNG.uniform(0.1, 3, 300) * RNG.choice([-1.0, 1.0], 300)) for _ in range(2))
    x, y = (single(v.astype(np.float64), v.astype(np.float64), "float32") for v in (a, b))
    computed, found = operation(a, b), operation(x, y)
    assert ((found.low <= computed) & (computed <= found.high)).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, 0.0)])
def test_a_quotient_by_what_holds_zero_is_unbounded(low: float, high: float) -> None:
    """A pole at the very edge too."""
    found = IntervalOps().divide(Interval(np.array([1.0]), np.array([2.0])), Interval(np.array([low]), np.array([high])))
    assert found.low[0] == -np.inf
    assert found.high[0] == np.inf


def test_every_index_that_rounding_may_give_belongs_to_its_cell() -> None:
    """x scale is rounded to float32 before it is truncated: numbers next to a border get the neighbour's value."""
    scale = float(np.float32(1023 / 7.3))
    cells = np.arange(-500, 501)
    first, last = table._borders(cells, scale)
    borders = np.float32(cells / scale)
    for x in (borders, np.nextafter(borders, np.float32(9)), np.nextafter(borders, np.float32(-9))):
        index = np.trunc(x * np.float32(scale)).astype(int)
        known = np.abs(index) <= 500
        at = index[known] + 500
        assert (first[at] <= x[known]).all()
        assert (x[known] <= last[at]).all()
    assert (np.abs(borders * scale - cells) > 0).any()


def _rows() -> list[Frozen]:
    """The same activation at three sizes; the largest, whose error is the largest, in the middle."""
    found = case("hermite_e", "abs_terms", (4, 4))
    return [
        Frozen(replace(found.config, groups=1), found.numerator * size, np.abs(found.denominator), "float32")
        for size in (1.0, 8.0, 0.25)
    ]


def test_the_bound_is_that_of_the_worst_group() -> None:
    rows = _rows()
    together = Frozen(
        replace(rows[0].config, groups=3),
        np.stack([r.numerator for r in rows]),
        np.stack([r.denominator for r in rows]),
        "float32",
    )
    alone = [table._make(row, [row], -4.0, 4.0, 1024, None, False)[1] for row in rows]
    assert table._make(together, rows, -4.0, 4.0, 1024, None, False)[1] == max(alone) > 4 * alone[-1]


def test_the_roundings_of_the_look_up_are_in_the_bound() -> None:
    """A steep asymptote far out: slope x and the sum are rounded, by far more than the cells are wide."""
    config = Config("power", "abs_terms", (1, 0))
    frozen = Frozen(config, np.array([0.0, 1000.0]), np.zeros(0), "float32")
    _, bound = table._make(frozen, [frozen], 1e5, 1e5 + 0.0625, 256, np.asarray(1000.0), False)
    assert bound >= float(np.finfo(np.float32).eps) * 2 * 1e5 * 1000.0
