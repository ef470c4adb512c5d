"""Within a tolerance: candidates, their proofs, tables, what is chosen, and whole files on data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from opau_onnx import ValidationConfig, collapse_model, export_model
from opau_onnx.collapse.approximation import builtin, minimax, refit, table
from opau_onnx.collapse.approximation.approximate import GUARD, ApproximationBudget, Choice, Range, approximate
from opau_onnx.collapse.approximation.intervals import Interval, IntervalOps, single
from opau_onnx.collapse.approximation.proof import enclose_exact, prove
from opau_onnx.collapse.approximation.ranges import activation_ranges, run, shifted
from opau_onnx.collapse.validation import read_data
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.config import Data
from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.frozen import Frozen, trim
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plan_search import one_row
from opau_onnx.core.spec import BASES, Config
from opau_onnx.errors import CollapseError, LoadError, ValidationError
from opau_onnx.io import datasets
from opau_onnx.io.samples import Samples, read_samples
from tests.cases import CASES, case
from tests.export import nets
from tests.export import single as one

MODELS = Path(__file__).resolve().parents[2] / "models"
HP1 = (
    np.array([5.16419077, 9.59655952, 6.54863119, 2.16946959, 0.23808226, 0.164729]),
    np.array([8.97063637, 2.44161415, 0.94242787, -0.45612019]),
)
"""Those of the shipped LeNet's first activation."""


def frozen(basis: str = "hermite_e", form: str = "abs_terms", values: Any = HP1, compute: str = "float32") -> Frozen:
    c, d = (np.asarray(v, dtype=np.float32).astype(np.float64) for v in values)
    first = FORMS[form].first
    return trim(Frozen(Config(basis, form, (len(c) - 1, len(d) - 1 + first)), c, d, compute))


def chosen(function: Frozen, tolerance: float, low: float = -4.0, high: float = 4.0, **options: Any) -> Choice:
    return approximate(function, "n", ApproximationBudget(tolerance, {"n": Range(low, high, 10)}, 20), **options)


def worst(choice: Choice, function: Frozen, count: int = 200_001) -> float:
    """Largest error in the range, computed as a runtime does."""
    assert choice.approximation is not None
    x = np.linspace(choice.approximation.low, choice.approximation.high, count).astype(function.compute)
    groups = function.config.groups
    found = choice.scheme.evaluate(NumpyOps(), choice.frozen, x if groups == 1 else x[None, :])
    values = np.broadcast_to(found, (groups, x.size))
    rows = [one_row(function, i) for i in range(groups)]
    known = [oracle.evaluate(r.config, x.astype(np.float64), r.numerator, r.denominator).value for r in rows]
    return float(np.abs(values - np.stack(known)).max())


# -- intervals


@pytest.mark.parametrize("at", [c for c in CASES if c.config.degrees == (5, 4)], ids=str)
def test_enclosures_hold_the_exact_value(at: Any) -> None:
    function = Frozen(at.config, at.numerator, at.denominator, "float32")
    rng = np.random.default_rng(0)
    low = rng.uniform(-8, 8, 500)
    high = low + rng.exponential(0.01, 500)
    x = low + (high - low) * rng.uniform(0, 1, 500)
    with np.errstate(all="ignore"):
        found = enclose_exact(function, low, high)
    value = oracle.evaluate(at.config, x, at.numerator, at.denominator).value
    known = np.isfinite(found.low) & np.isfinite(found.high)
    assert known.mean() > 0.5
    assert (found.low <= value)[known].all()
    assert (value <= found.high)[known].all()


@pytest.mark.parametrize("operation", ["+", "-", "*", "abs", "clamp", "max", "/", "LeakyRelu", "Sigmoid", "Gelu"])
def test_each_operation_encloses_float32(operation: str) -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=2000).astype(np.float32) for _ in range(2))
    ops, plain = IntervalOps(), NumpyOps()
    around = [single(v.astype(np.float64) - w, v.astype(np.float64) + w, "float32") for v, w in ((x, 1e-3), (y, 1e-2))]
    calls: dict[str, Any] = {
        "+": lambda o, a, b: a + b, "-": lambda o, a, b: a - b, "*": lambda o, a, b: a * b, "abs": lambda o, a, b: o.abs(a),
        "clamp": lambda o, a, b: o.clamp(a, -0.5, 0.75), "max": lambda o, a, b: o.maximum(a, 0.25),
        "/": lambda o, a, b: o.divide(a, b),
    }  # fmt: skip
    attributes = {"alpha": -0.3} if operation == "LeakyRelu" else {}
    call = calls.get(operation) or (lambda o, a, b: o.unary(operation, a, **attributes))
    got, bounds = call(plain, x, y).astype(np.float64), call(ops, *around)
    assert (bounds.low <= got).all()
    assert (got <= bounds.high).all()
    tight = bounds.high - bounds.low < 1.0
    assert tight.mean() > 0.9


def test_a_divisor_that_holds_zero_is_unbounded() -> None:
    y = IntervalOps().divide(1.0, Interval(np.array([-1.0, 1.0]), np.array([1.0, 2.0])))
    assert np.isinf(y.high[0])
    assert y.high[1] < 1.1


# -- proofs


def test_a_proof_fails_for_an_error_in_one_place() -> None:
    """A spike narrower than any grid would find."""
    function = frozen()

    def with_spike(x: Interval) -> Interval:
        found = enclose_exact(function, x.low, x.high)
        hit = (x.low <= 1.2345678) & (x.high >= 1.2345678)
        return Interval(found.low, np.where(hit, found.high + 0.01, found.high))

    assert prove(function, with_spike, -4, 4, 5e-3) is None
    bound = prove(function, with_spike, -4, 4, 2e-2)
    assert bound is not None
    assert 0.01 <= bound <= 2e-2


def test_a_bound_is_not_far_from_the_error() -> None:
    function = frozen()
    shift = 0.003
    bound = prove(function, lambda x: enclose_exact(function, x.low, x.high) + shift, -6, 6, 0.0031)
    assert bound is not None
    assert shift <= bound <= 0.0031


# -- fits


def test_minimax_of_a_polynomial_is_chebyshevs() -> None:
    x = minimax.nodes(-1, 1)
    _, error = minimax.linear(np.stack([x**0, x, x**2], axis=1), x**3, 0.25)
    assert error == pytest.approx(0.25, rel=0.05)  # T_3 / 4 is what is left over


def test_a_function_of_a_smaller_family_is_found_again() -> None:
    """Coefficients of degrees (3, 2), hidden in (5, 4) through terms that hardly matter."""
    values = np.array([0.1, 0.9, 0.4, 0.3, 0.0, 1e-11]), np.array([0.5, 0.7, 0.0, 1e-11])
    choice = chosen(frozen(values=values), 1e-4, -12.0, 12.0)
    assert choice.frozen.config.degrees == (3, 2)
    assert choice.approximation is not None
    assert 0 < choice.approximation.bound <= 1e-4
    assert worst(choice, frozen(values=values)) <= choice.approximation.bound


@pytest.mark.parametrize("form", ["abs_terms", "abs_sum"])
@pytest.mark.parametrize("basis", BASES)
def test_every_basis_and_safe_form_within_a_tolerance(basis: str, form: str) -> None:
    at = case(basis, form)
    function = trim(Frozen(at.config, at.numerator, at.denominator, "float32"))
    choice = chosen(function, 2e-2, -2.0, 2.0)
    found = choice.approximation
    assert found is not None
    assert found.bound <= 2e-2
    if found.bound:
        assert worst(choice, function, 20_001) <= found.bound
    assert found.low == pytest.approx(-2.0 - 4 * GUARD)
    with np.errstate(all="ignore"):
        y = choice.scheme.evaluate(NumpyOps(), choice.frozen, np.array([np.nan, np.inf, -np.inf, 3e38], np.float32))
    assert np.isnan(y).tolist() == [True, False, False, False]


def test_smooth_functions_get_smooth_replacements() -> None:
    """Without kinks to follow a built-in or a short rational function is the cheapest."""
    values = np.array([0.0, 0.5, 0.25]), np.array([0.0, 0.0])
    choice = chosen(frozen("power", "plain", (np.array([0.0, 1.0]), np.array([0.0, 0.0]))), 1e-3)
    assert choice.frozen.config.top <= 1 or isinstance(choice.scheme, builtin.Builtin)
    square = approximate(frozen("power", "plain", values), "n", ApproximationBudget(1e-3, {"n": Range(-1, 1, 1)}, 20))
    assert square.approximation is not None
    assert worst(square, frozen("power", "plain", values)) <= max(square.approximation.bound, 1e-5)


def test_leaky_relu_is_found() -> None:
    """A fresh HP-1 imitates LeakyReLU, so within a wide tolerance LeakyRelu takes its place."""
    from opau_onnx.nn import HP1 as Module

    module = Module()
    c, d = (p.detach().double().numpy() for p in (module.numerator, module.denominator))
    choice = chosen(frozen(values=(c, d)), 0.3, -3, 3)
    assert isinstance(choice.scheme, builtin.Builtin)
    assert choice.scheme.name == "LeakyRelu"
    assert worst(choice, frozen(values=(c, d))) <= 0.3


def test_a_fit_with_a_pole_is_refused() -> None:
    family = refit.Family("power", "plain", (1, 2))
    function = frozen("power", "plain", (np.array([1.0]), np.array([0.0, -0.25])))  # 1 / (1 - x**2 / 4)
    assert refit.fit(function, family, -1.0, 1.0, 1.0) is None


# -- tables


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_tables(tolerance: float) -> None:
    function = frozen()
    made = table.smallest(function, [function], -6.0, 5.0, tolerance)
    assert made is not None
    assert made[1] <= tolerance
    x = np.linspace(-6, 5, 400_001).astype(np.float32)
    y = made[0].evaluate(NumpyOps(), function, x)
    error = np.abs(y - oracle.evaluate(function.config, x.astype(np.float64), function.numerator, function.denominator).value)
    assert tolerance / 8 < error.max() <= made[1]


def test_a_table_goes_on_along_the_asymptote_and_keeps_nan() -> None:
    function = frozen()
    made = table.smallest(function, [function], -6.0, 5.0, 1e-2)
    assert made is not None
    x = np.array([1e6, -1e6, np.nan, np.inf, -np.inf], np.float32)
    with np.errstate(invalid="ignore"):
        y = made[0].evaluate(NumpyOps(), function, x)
    known = oracle.evaluate(function.config, x.astype(np.float64), function.numerator, function.denominator).value
    np.testing.assert_allclose(y, known, rtol=1e-4)


def test_tables_of_groups() -> None:
    rng = np.random.default_rng(3)
    c, d = rng.uniform(0.5, 1.5, (3, 6)), rng.uniform(0.5, 1.5, (3, 4))
    function = Frozen(Config("hermite_e", "abs_terms", (5, 4), 3, 1), c, d, "float32")
    choice = chosen(function, 1e-2)
    assert isinstance(choice.scheme, table.Table)
    assert choice.approximation is not None
    assert worst(choice, function, 30_001) <= choice.approximation.bound <= 1e-2


def test_no_table_where_nothing_goes_on_beyond_it() -> None:
    function = frozen("power", "abs_terms", (np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0])))  # grows as x**2
    assert table.smallest(function, [function], -2.0, 2.0, 0.1) is None


# -- what is chosen


def test_nothing_cheaper_keeps_the_exact_function() -> None:
    choice = chosen(frozen(), 1e-7)
    assert choice.approximation is not None
    assert (choice.approximation.bound, choice.approximation.chosen) == (0.0, "")
    assert choice.frozen.config == frozen().config


def test_a_range_beyond_x0_keeps_the_exact_function() -> None:
    choice = chosen(frozen(), 1e-1, -1.0, 1e6)
    assert choice.approximation is not None
    assert choice.approximation.tried == {"all": "the inputs reach beyond X0"}


def test_kernels_get_the_definitions_family_only() -> None:
    choice = chosen(frozen(), 0.2, family_only=True)
    assert choice.frozen.config.basis == "power"
    assert choice.approximation is not None
    assert 0 < choice.approximation.bound <= 0.2
    assert not any("table" in name for name in choice.approximation.tried)


def test_a_node_that_calibration_has_not_seen() -> None:
    with pytest.raises(CollapseError, match="calibration saw no input of n"):
        approximate(frozen(), "n", ApproximationBudget(1e-3, {}, 20))


# -- files


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lenet") / "lenet.onnx"
    export_model(MODELS / "lenet_hp1_fashion_mnist.pt", path, validate=False)
    return path


def sample() -> Samples:
    images, labels = datasets.load_sample()
    return Samples((datasets.preprocess(images),), labels, "the sample")


def test_ranges(lenet: Path) -> None:
    found = activation_ranges(lenet, sample().first(100))
    assert len(found) == 4
    first = found["conv1_activation/OrthogonalPade"]
    assert -10 < first.low < -1 < 1 < first.high < 10
    assert first.count == 100 * 6 * 28 * 28
    more = activation_ranges(lenet, sample())
    assert all(more[n].low <= found[n].low and more[n].high >= found[n].high for n in found)


def test_ranges_of_data_that_is_not_finite(lenet: Path) -> None:
    bad = Samples((np.full((1, 1, 28, 28), np.inf, np.float32),), None, "bad")
    with pytest.raises(ValidationError, match="infinite or NaN on the data"):
        activation_ranges(lenet, bad)
    with pytest.raises(ValidationError, match="onnxruntime cannot run the model on wrong"):
        activation_ranges(lenet, Samples((np.zeros((1, 3), np.float32),), None, "wrong"))


def test_shifted_models_move_the_activations(tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    at = one.Case(Config())
    path.write_bytes(one.model(at, [8], one.coefficients(at)).SerializeToString())
    x = Samples((np.linspace(-1, 1, 8, dtype=np.float32),), None, "x")
    plain, up, down, random = (next(iter(run(m, x))) for m in (ir.load(path), *shifted(path, 0.25)))
    (name,) = plain
    np.testing.assert_allclose(up[name] - plain[name], 0.25, atol=1e-6)
    np.testing.assert_allclose(down[name] - plain[name], -0.25, atol=1e-6)
    moved = random[name] - plain[name]
    assert np.abs(moved).max() <= 0.25
    assert np.ptp(moved) > 0.1


@pytest.mark.parametrize("form", ["standard", "fused"])
def test_lenet_keeps_its_labels(form: str, lenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = collapse_model(lenet, out, form, tolerance=1e-3, data="fashion-mnist", report=tmp_path / "report.json")
    assert result.equal
    assert [a.differing for a in result.agreements.values()] == [0]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["tolerance"] == 1e-3
    assert content["classes"][0]["differing"] == 0
    bounds = [a["approximation"]["proven_error"] for a in content["activations"]]
    if form == "standard":
        assert all(0 < b <= 1e-3 for b in bounds)
        assert {n.domain for n in onnx.load(out).graph.node} == {""}
        assert not onnx.load(out).functions
    else:
        assert bounds == [0.0] * 4  # the kernel's own family has nothing cheaper so close
    x = sample()
    assert (OnnxRuntime(out).session.run(None, {"images": x.inputs[0]})[0].argmax(1) == x.labels).mean() > 0.9


def test_a_fault_in_a_table_is_found(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = table._make

    def wrong(*arguments: Any) -> Any:
        made, bound = make(*arguments)
        made.values[0, 7] += 0.01
        return made, bound

    monkeypatch.setattr(table, "_make", wrong)
    result = collapse_model(lenet, tmp_path / "out.onnx", tolerance=1e-3, data="fashion-mnist")
    assert result.equal is False
    assert result.path.name == "out.rejected.onnx"
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_network_of_every_activation(dtype: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    export_model(nets.zoo(), before, nets.example(*nets.ZOO_INPUT), dtype=dtype, validate=False)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(64, *nets.ZOO_INPUT[1:])).astype(dtype))
    result = collapse_model(before, after, tolerance=1e-2, data=tmp_path / "data.npz")
    assert result.equal
    assert any(r.approximation and r.approximation.bound for r in result.replaced)


def test_refused(lenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(CollapseError, match="needs real inputs"):
        collapse_model(lenet, out, tolerance=1e-3)
    with pytest.raises(CollapseError, match="expected a number of at least 0"):
        collapse_model(lenet, out, tolerance=float("nan"), data="fashion-mnist")
    with pytest.raises(LoadError, match="there are no samples"):
        collapse_model(lenet, out, tolerance=1e-3, data=Data(tmp_path / "none.npz"))
    np.savez(tmp_path / "short.npz", images=np.zeros((2, 5), np.float32))
    with pytest.raises(ValidationError, match="cannot run the model on"):
        collapse_model(lenet, out, tolerance=1e-3, data=tmp_path / "short.npz", comparing=ValidationConfig(skip=True))
    assert [p.name for p in tmp_path.iterdir()] == ["short.npz"]


def test_data_of_calibration_and_of_the_check() -> None:
    model = ir.Model(ir.Graph([ir.Value(name="images")], [], nodes=[]), ir_version=10)
    assert len(read_data(Data("fashion-mnist", 7), model, "train")) == 7
    assert len(read_data(Data("fashion-mnist", 7), model, "test")) == len(read_samples("fashion-mnist", ["images"]))
