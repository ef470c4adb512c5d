"""The initial fits: how close they come, that they have no poles and tame tails, and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.fitting import PRINTED
from opau_onnx.core.spec import BASES, Config
from opau_onnx.core.targets import TARGETS
from opau_onnx.errors import SpecError
from opau_onnx.nn import Fit, fit

HP1, HP2, PAU = Config("hermite_e"), Config("hermite"), Config("power")

LARGEST = {
    # target: largest error on [-3, 3] at degrees (5, 4) of HP-1, HP-2 and PAU version A
    "leaky_relu": (0.100, 0.073, 0.047),
    "relu": (0.100, 0.073, 0.047),
    "prelu": (0.083, 0.060, 0.037),
    "elu": (0.0075, 0.0055, 0.0033),
    "softplus": (0.0115, 0.0100, 0.0026),
    "silu": (0.0092, 0.0058, 0.0020),
    "gelu": (0.0205, 0.0145, 0.0025),
    "mish": (0.0155, 0.0118, 0.0042),
    "tanh": (0.0147, 0.0098, 0.0004),
    "sigmoid": (0.0130, 0.0080, 0.0001),
    "tanhsoft": (0.0190, 0.0150, 0.0048),
    "eis": (0.0163, 0.0080, 0.0110),
}


def value(config: Config, found: Fit, x: object) -> np.ndarray:
    return oracle.evaluate(config, x, found.numerator, found.denominator).value


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_reached(target: str) -> None:
    assert set(LARGEST) == set(TARGETS)
    x = np.linspace(-3, 3, 4001)
    for config, largest in zip((HP1, HP2, PAU), LARGEST[target], strict=True):
        found = fit(target, config)
        error = np.abs(value(config, found, x) - TARGETS[target](x))
        print(f"{target}, {config}: {found.max_error:.4f}, tails {found.tail_error:.3f}")
        assert error.max() < largest
        assert found.max_error == pytest.approx(error.max(), rel=0.01)
        assert found.rms_error == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.01)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("config", [HP1, HP2], ids=["HP1", "HP2"])
def test_tails_are_tame(config: Config, target: str) -> None:
    """Early in training inputs leave the interval: what they meet there must not blow up."""
    found = fit(target, config)
    assert np.abs(value(config, found, np.linspace(-20, 20, 401))).max() < 40
    assert found.tail_error < 0.3


@pytest.mark.parametrize("basis", ["hermite_e", "chebyshev", "power"])
def test_growth_far_out(basis: str) -> None:
    """The highest coefficient of the denominator is not left at nearly 0, which lets a fit grow quadratically."""
    for target in TARGETS:
        found = fit(target, Config(basis))
        far = value(Config(basis), found, np.array(PRINTED))
        assert found.far == pytest.approx(far)
        assert np.abs(far).max() < 150
    free = fit("sigmoid", HP1, growth_weight=0.0)
    assert abs(free.far[3]) > 400 > 10 > abs(fit("sigmoid", HP1).far[3])


def test_growth_of_high_degrees_and_of_steep_targets() -> None:
    config = Config("chebyshev", "abs_terms", (16, 16))
    assert np.abs(fit("leaky_relu", config).far).max() < 150
    assert np.abs(fit("leaky_relu", config, growth_weight=0.0).far).max() > 1000
    steep, free = (fit(np.exp, HP1, (-1.0, 1.0), growth_weight=w) for w in (0.01, 0.0))
    assert steep.rms_error < 1.5 * free.rms_error + 0.003, "what nothing can follow does not count"


@pytest.mark.parametrize("form", ["abs_terms", "abs_sum"])
def test_no_denominator_starts_where_it_has_no_slope(form: str) -> None:
    config = Config("hermite_e", form)
    found = fit(lambda x: x, config)
    weights = np.asarray(found.denominator, dtype=np.float32)
    assert (weights != 0).all()
    assert found.max_error < 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_every_basis_and_form_without_poles(basis: str, form: str) -> None:
    config = Config(basis, form)
    x = np.linspace(-6, 6, 2401)
    for target, largest in (("leaky_relu", 0.11), ("gelu", 0.025)):
        found = fit(target, config)
        assert found.max_error < largest
        inverse = oracle.evaluate(config, x, [1.0] + [0.0] * 5, found.denominator).value  # 1 / Q
        assert (inverse > 0).all()
        assert (inverse < 25).all()


@pytest.mark.parametrize("degrees", [(0, 0), (1, 0), (0, 1), (2, 1), (3, 2), (6, 5)])
def test_other_degrees(degrees: tuple[int, int]) -> None:
    errors = [fit("silu", Config(basis, "abs_terms", degrees)).max_error for basis in ("power", "hermite_e", "legendre")]
    assert max(errors) < {(0, 0): 3.0, (1, 0): 1.0, (0, 1): 3.0, (2, 1): 0.35, (3, 2): 0.2, (6, 5): 0.012}[degrees]


def test_the_same_at_every_call_and_in_every_process() -> None:
    found = fit("gelu", HP1)
    assert fit("gelu", HP1) == found
    assert fit("gelu", Config("hermite_e", groups=4)) == found, "groups do not matter"
    code = "from opau_onnx.nn import fit; from opau_onnx.core.spec import Config; print(fit('gelu', Config()))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(found)


def test_interval() -> None:
    narrow = fit("leaky_relu", HP1, interval=(-1.0, 1.0))
    assert narrow.max_error < fit("leaky_relu", HP1).max_error
    shifted = fit("sigmoid", HP1, interval=(2.0, 6.0))
    x = np.linspace(2, 6, 100)
    assert np.abs(value(HP1, shifted, x) - 1 / (1 + np.exp(-x))).max() < 0.01


def test_tail_weight() -> None:
    free = fit("leaky_relu", HP1, tail_weight=0.0, growth_weight=0.0)
    held = fit("leaky_relu", HP1)
    assert free.max_error < held.max_error < 1.3 * free.max_error
    assert abs(value(HP1, free, 20.0)) > 100 > 20 > abs(value(HP1, held, 20.0))


@pytest.mark.parametrize("name", ["numpy", "torch", "module", "lambda"])
def test_callables(name: str) -> None:
    function = {"numpy": np.tanh, "torch": torch.tanh, "module": torch.nn.Tanh(), "lambda": lambda x: np.tanh(x)}[name]
    assert fit(function, HP2).max_error == pytest.approx(fit("tanh", HP2).max_error, rel=1e-3)


def test_target_that_ends_at_the_interval() -> None:
    """Beyond it the logarithm is not finite: those points are left out, and the tail's error is unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = fit(lambda x: np.log(x), HP1, interval=(1.0, 3.0))
    assert found.max_error < 0.01
    assert np.isnan(found.tail_error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "swish"}, "unknown target 'swish'; expected a callable or one of leaky_relu, relu, .*eis"),
        ({"interval": (3.0, -3.0)}, r"interval is \(3.0, -3.0\); expected two finite numbers \(low, high\) with low < high"),
        ({"interval": (1.0, 1.0)}, "interval is"),
        ({"interval": (-np.inf, 1.0)}, "interval is"),
        ({"interval": (np.nan, 1.0)}, "interval is"),
        ({"tail_weight": -1.0}, "tail_weight is -1.0; expected a finite number of at least 0"),
        ({"tail_weight": np.nan}, "tail_weight is nan"),
        ({"growth_weight": -1.0}, "growth_weight is -1.0; expected a finite number of at least 0"),
        ({"target": lambda x: np.where(x > 2, np.nan, x)}, r"is not finite on the whole interval \[-3, 3\]"),
        ({"target": lambda x: x.sum()}, r"gives shape \(\) for input of shape \(513,\); it must be elementwise"),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        fit(**{"target": "relu", "config": HP1, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("leaky_relu", torch.nn.functional.leaky_relu),
        ("relu", torch.relu),
        ("prelu", torch.nn.PReLU(dtype=torch.float64)),
        ("elu", torch.nn.functional.elu),
        ("softplus", torch.nn.functional.softplus),
        ("silu", torch.nn.functional.silu),
        ("gelu", torch.nn.functional.gelu),
        ("mish", torch.nn.functional.mish),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
    ],
)
def test_targets_are_what_torch_calls_so(name: str, function: object) -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    with torch.no_grad():
        want = function(x)  # type: ignore[operator]
    np.testing.assert_allclose(TARGETS[name](x.numpy()), want.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["plain", "free"])
@pytest.mark.parametrize("degrees", [(2, 2), (3, 2)])
def test_no_fit_stands_next_to_a_pole(form: str, degrees: tuple[int, int]) -> None:
    """A target that a fraction with a pole just outside of the interval meets exactly: that one is not taken."""
    found = fit(lambda x: 1.0 / (x + 3.01), Config("power", form, degrees), tail_weight=0.0, growth_weight=0.0)
    x = np.linspace(-3.0, 3.0, 10_001)
    first = FORMS[form].first
    q = (1.0 if first else 0.0) + sum(d * x ** (first + j) for j, d in enumerate(found.denominator))
    assert q.min() >= 0.05
