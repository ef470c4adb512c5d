"""Reading an activation's constants, and dropping what cannot matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from opau_onnx.core.frozen import Frozen, trim
from opau_onnx.core.spec import Config
from opau_onnx.errors import CollapseError
from opau_onnx.graph.frozen import freeze
from opau_onnx.graph.nodes import opau_nodes
from tests.export import single


def frozen(config: Config, numerator: Any, denominator: Any) -> Frozen:
    return Frozen(config, np.asarray(numerator, float), np.asarray(denominator, float), "float32")


def test_the_numbers_are_those_of_the_file() -> None:
    case = single.Case(Config(groups=3), per_group=(True, False))
    values = single.coefficients(case)
    (node,) = opau_nodes(ir.from_proto(single.model(case, ["N", 6], values)))
    found = freeze(node)
    assert (found.config, found.compute) == (case.config, "float32")
    assert np.array_equal(found.numerator, values[0])
    assert np.array_equal(found.denominator, values[1])
    assert found.column("numerator", 2).shape == (3, 1)
    assert found.column("denominator", 2).shape == ()


def test_leading_zeros_are_dropped() -> None:
    small = trim(frozen(Config("legendre"), [1, 2, 0, 3, 0, 0], [0, 4, 0, 0]))
    assert small.config == Config("legendre", degrees=(3, 2))
    assert small.numerator.tolist() == [1, 2, 0, 3]
    assert small.denominator.tolist() == [0, 4]


def test_a_coefficient_of_one_group_is_kept() -> None:
    c = [[1, 2, 0, 0, 0, 0], [1, 0, 0, 5, 0, 0]]
    small = trim(frozen(Config(groups=2), c, [1, 1, 1, 1]))
    assert small.config.degrees == (3, 4)
    assert small.numerator.shape == (2, 4)


def test_equal_rows_become_one() -> None:
    small = trim(frozen(Config(groups=2), [[1, 2, 3, 4, 5, 6]] * 2, [[1, 1, 1, 1]] * 2))
    assert small.config.groups == 1
    assert small.numerator.shape == (6,)
    assert trim(frozen(Config(groups=2), [[1, 2, 3, 4, 5, 6]] * 2, [[1, 1, 1, 1], [1, 1, 1, 2]])).config.groups == 2


@pytest.mark.parametrize("form", ["abs_terms", "pau_c"])
def test_nothing_but_zeros(form: str) -> None:
    config = Config(form=form)
    small = trim(frozen(config, [0] * 6, [0] * config.denominator_size))
    assert small.config.degrees == (0, 0)
    assert small.numerator.tolist() == [0]
    assert small.denominator.size == config.denominator_size - 4


def test_full_activations_stay() -> None:
    full = frozen(Config(), [1, 2, 3, 4, 5, 6], [1, 2, 3, 4])
    assert trim(full).key() == full.key()


def test_coefficients_computed_at_run_time() -> None:
    (node,) = opau_nodes(ir.from_proto(single.model(single.Case(Config()), ["N"])))
    with pytest.raises(CollapseError, match=r"coefficients of .* are computed at run time"):
        freeze(node)


def test_numbers_that_are_none() -> None:
    case = single.Case(Config())
    c, d = single.coefficients(case)
    c[2] = np.nan
    (node,) = opau_nodes(ir.from_proto(single.model(case, ["N"], (c, d))))
    with pytest.raises(CollapseError, match="NaN or infinity"):
        freeze(node)
