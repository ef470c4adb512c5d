"""Which evaluations apply, what they cost, which is chosen: also where monomials or a clamp would be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.frozen import Frozen, trim
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plan_search import breakpoints, choose, error, operations, share
from opau_onnx.core.plans import SCALED, EvaluationPlan, Tail, clamp_limit, evaluate, plans
from opau_onnx.core.spec import BASES, Config
from tests.export import single


def activation(config: Config, dtype: str = "float32", own: tuple[bool, bool] = (False, False)) -> Frozen:
    case = single.Case(config, dtype, per_group=own)
    c, d = single.coefficients(case)
    return trim(Frozen(config, c.astype(float), d.astype(float), case.compute))


def test_hp1() -> None:
    hp1 = activation(Config())
    chosen = choose(hp1)
    assert chosen == EvaluationPlan("monomials", "closed", normalized=True, clamped=True)
    assert operations(hp1, chosen) == 31
    assert operations(hp1, SCALED) == 49


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_what_is_chosen_is_the_cheapest_that_is_accurate(basis: str, form: str) -> None:
    for degrees in ((5, 4), (4, 4), (3, 2), (10, 9)):
        f = activation(Config(basis, form, degrees))
        chosen = choose(f)
        allowed = min(1.0, 2 * error(f, SCALED))
        good = {s: operations(f, s) for s in plans(f) if s == SCALED or error(f, s) <= allowed}
        assert operations(f, chosen) == min(good.values())
        assert error(f, chosen) <= 1.0


@pytest.mark.parametrize("degrees", [(4, 5), (6, 4), (5, 0), (0, 0)])
def test_no_clamp_where_it_has_no_asymptote(degrees: tuple[int, int]) -> None:
    f = activation(Config(degrees=degrees))
    assert Tail.of(f) is None
    assert plans(f) == [SCALED]
    assert Tail.of(activation(Config(form="clamped"))) is None


def test_no_clamp_where_rows_have_different_degrees() -> None:
    c, d = np.ones((2, 6)), np.ones((2, 4))
    c[0, 5] = 0
    f = trim(Frozen(Config(groups=2), c, d, "float32"))
    assert plans(f) == [SCALED]
    c[0, 5] = 1
    assert len(plans(trim(Frozen(Config(groups=2), c, d, "float32")))) > 1


def small_inputs(f: Frozen) -> Any:
    limit = min(clamp_limit(f), 1.0)
    return np.linspace(-limit, limit, 4001).astype(np.float32)


@pytest.mark.parametrize("basis", ["chebyshev", "legendre"])
def test_high_degrees_keep_the_recurrence(basis: str) -> None:
    """On [-1, 1] alone, so that no clamp matters: as monomials the sum loses digits that the recurrence keeps."""
    c, d = np.full(17, 0.5) * (-1.0) ** np.arange(17), np.full(16, 0.5)
    f = Frozen(Config(basis, "abs_sum", (16, 16)), c, d, "float32")
    x = small_inputs(f)
    known = oracle.evaluate(f.config, x, c, d)
    used = {}
    for way in ("monomials", "rows"):
        with np.errstate(all="ignore"):
            y = evaluate(NumpyOps(), f, EvaluationPlan(way, way, clamped=True), x)  # type: ignore[arg-type]
        used[way] = share(known, y, "float32")
    assert used["rows"] < 0.5
    assert used["monomials"] > 10 * used["rows"]
    assert choose(f).numerator == "rows"


def test_a_clamp_is_found_wrong_where_the_asymptote_is_late() -> None:
    """k = l: f reaches its limit as 1 / x, and a large second coefficient makes that late."""
    good = Frozen(Config("power", degrees=(4, 4)), np.ones(5), np.ones(4), "float32")
    late = Frozen(Config("power", degrees=(4, 4)), np.array([0, 0, 0, 1e6, 1e-3]), np.ones(4), "float32")
    assert choose(good).clamped
    clamped = [s for s in plans(late) if s.clamped]
    assert clamped
    assert min(error(late, s) for s in clamped) > 1
    assert choose(late) == SCALED


def test_kinks() -> None:
    assert breakpoints(activation(Config(degrees=(5, 3)))) == pytest.approx([-(3**0.5), -1, 0, 1, 3**0.5])
    parabola = Frozen(Config("power", "abs_sum", (2, 2)), np.ones(3), np.array([-3.0, 1.0]), "float32")
    assert breakpoints(parabola) == pytest.approx([0, 3])
    assert breakpoints(activation(Config(form="plain"))) == []


def test_groups_are_tried_one_by_one() -> None:
    """One bad row decides."""
    c, d = np.ones((3, 5)), np.ones((3, 4))
    assert choose(Frozen(Config("power", degrees=(4, 4), groups=3), c, d, "float32")).clamped
    c[1] = [0, 0, 0, 1e6, 1e-3]
    assert choose(Frozen(Config("power", degrees=(4, 4), groups=3), c, d, "float32")) == SCALED


def test_wrong_results_are_told() -> None:
    known = oracle.evaluate(Config(), np.array([1.0, 2.0, np.nan, np.inf]), np.ones(6), np.ones(4))
    right = known.value.astype(np.float32)
    assert share(known, right, "float32") < 1
    for at, wrong in ((0, 1.01), (1, np.nan), (2, 0.0), (3, 1.0), (3, np.nan)):
        broken = right.copy()
        broken[at] = wrong if at else right[0] * wrong
        assert share(known, broken, "float32") > 1, (at, wrong)
