"""Activations of other libraries become ours: the same function, said what was replaced, refused where that is impossible."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opau_onnx.errors import ReplacementError
from opau_onnx.nn import HP1, OrthogonalPade, adopt
from tests.nn import peer_modules as peer
from tests.nn.peer_modules import PAU, Coeffs, KAT_Group, PADEACTIVATION_Function_based, Rational

X = torch.linspace(-4, 4, 48, dtype=torch.float64)
TOKENS, IMAGES = X.reshape(1, 2, 24), X.reshape(1, 24, 2, 1)

MODULES: dict[str, tuple[Any, str, tuple[str, tuple[int, int], int], Tensor]] = {
    "A": (Rational, "rational-activations, version A", ("abs_terms", (5, 4), 1), X),
    "B": (lambda: Rational("B"), "rational-activations, version B", ("abs_sum", (5, 4), 1), X),
    "C": (lambda: Rational("C"), "rational-activations, version C", ("pau_c", (5, 4), 1), X),
    "D": (lambda: Rational("D"), "rational-activations, version D", ("abs_sum", (5, 4), 1), X),
    "N": (lambda: Rational("N", (3, 2)), "rational-activations, version N", ("plain", (3, 2), 1), X),
    "pau": (PADEACTIVATION_Function_based, "ml-research/pau", ("abs_terms", (5, 4), 1), X),
    "pade": (PAU, "Padé Activation Unit, efficient=True", ("clamped", (5, 4), 1), X),
    "pade, not efficient": (
        lambda: PAU(efficient=False, eps=0.1), "Padé Activation Unit, efficient=False", ("abs_sum", (5, 4), 1), X,
    ),
    "pade, n above m": (lambda: PAU(3, 6), "Padé Activation Unit, efficient=True", ("clamped", (3, 3), 1), X),
    "pade, frozen": (lambda: PAU().freeze(), "Padé Activation Unit, efficient=True", ("clamped", (5, 4), 1), X),
    "KAT": (KAT_Group, "kat_rational, KAT_Group", ("abs_terms", (5, 4), 8), TOKENS),
    "KAT, one group": (lambda: KAT_Group(1), "kat_rational, KAT_Group", ("abs_terms", (5, 4), 1), TOKENS),
    "KAT 1D": (peer.KAT_1DGroup, "kat_rational, KAT_1DGroup", ("abs_terms", (5, 4), 4), TOKENS),
    "KAT 2D": (peer.KAT_Group2D, "kat_rational, KAT_Group2D", ("abs_terms", (5, 4), 8), IMAGES),
    "KAT, on the CPU": (
        lambda: KAT_Group(path="cpu"), "kat_rational, KAT_Group on its path for the CPU, 1 + sum_j abs(d_j) x**j",
        ("plain", (5, 4), 8), TOKENS,
    ),
    "RationalNets": (Coeffs, "RationalNets", ("free", (3, 2), 1), X),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_the_same_function(name: str) -> None:
    make, kind, (form, degrees, groups), x = MODULES[name]
    module = make().eval()
    net = nn.Sequential(nn.Identity(), module)
    want = copy.deepcopy(module).double()(x).detach()
    done = adopt(net)
    assert done.model is net
    assert isinstance(net[1], OrthogonalPade)
    record = done.modules[0]
    assert (record.name, record.kind, record.not_run) == ("1", kind, "")
    config = record.config
    assert (config.basis, config.form, config.degrees, config.groups) == ("power", form, degrees, groups)
    assert record.compared > 1000
    assert not net[1].training
    # Poles lie between the points; close to one a rounding counts for more.
    torch.testing.assert_close(net[1].double()(x).detach(), want, rtol=1e-10, atol=1e-12)


def real(name: str) -> Any:
    """The package rational-activations itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in its docstrings
        package = pytest.importorskip("rational.torch", reason="rational-activations is not installed (it pins torch 1.7.1)")
    return getattr(package, name)


@pytest.mark.parametrize("function", ["leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("version", ["A", "B", "C", "D", "N"])
def test_the_package_itself(version: str, function: str) -> None:
    module = real("Rational")(function, version=version, cuda=False).eval()
    want = module.double()(X).detach()
    done = adopt(module.float())
    assert isinstance(done.model, OrthogonalPade)
    assert done.modules[0].name == ""
    assert done.modules[0].compared > 1000
    assert done.modules[0].max_error < 1e-10
    torch.testing.assert_close(done.model.double()(X).detach(), want, rtol=1e-12, atol=1e-13)


def test_a_version_that_was_changed_later() -> None:
    """C with the four coefficients that it had as A: b_0 counts, and the degree is one less."""
    module = real("Rational")(version="A", cuda=False).eval()
    module.change_version("C")
    want = module(X.float())
    model = adopt(module).model
    assert isinstance(model, OrthogonalPade)
    assert model.config.degrees == (5, 3)
    torch.testing.assert_close(model(X.float()), want)


def test_a_recurrent_one_stays_shared() -> None:
    shared = real("RecurrentRational")(version="B", cuda=False)
    net = nn.Sequential(nn.Linear(3, 3), shared(), nn.Linear(3, 3), shared()).eval()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    want = net(x)
    done = adopt(net)
    assert [m.name for m in done.modules] == ["1", "3"]
    assert net[1] is net[3]
    torch.testing.assert_close(net(x), want)
    assert "abs_sum" in repr(net)


def test_what_is_trained_stays_so() -> None:
    module = real("Rational")(cuda=False, train_numerator=False).train()
    model: Any = adopt(module).model
    assert model.training
    assert not model.numerator.requires_grad
    assert model.denominator.requires_grad
    frozen: Any = adopt(PAU().freeze()).model
    assert not frozen.numerator.requires_grad
    nets: Any = adopt(Coeffs()).model
    assert nets.numerator.requires_grad
    assert nets.denominator.requires_grad


def test_shared_and_tied_coefficients_stay_so() -> None:
    one, other = Rational(), Rational()
    other.numerator, other.denominator = one.numerator, one.denominator
    net = nn.Sequential(one, Rational(), one, other)
    adopt(net)
    assert net[0] is net[2] is net[3]
    assert net[0] is not net[1]


def test_a_kernel_that_cannot_run_here() -> None:
    """The published formula is taken, and the record says that nothing ran."""
    want = KAT_Group().double()(TOKENS)
    done = adopt(nn.Sequential(KAT_Group(path="cuda")))
    assert done.modules[0].compared == 0
    assert "0 active drivers" in str(done.modules[0])
    torch.testing.assert_close(done.model.double()(TOKENS), want)


def test_sixteen_bit_coefficients_become_float32() -> None:
    model: Any = adopt(Rational().half()).model
    assert model.numerator.dtype == torch.float32


REFUSED: dict[str, tuple[Any, str]] = {
    "version": (lambda: Rational("E"), r"of version 'E'; known are A, B, C, D, N"),
    "noise": (lambda: Rational("D").train(), r"adds noise in training; call eval\(\) first"),
    "degree": (lambda: Rational("A", (17, 4)), r"degrees is \(17, 4\)"),
    "eps": (lambda: PAU(eps=1e-6), r"eps=1e-06"),
    "m": (lambda: changed(PAU(), m=4), r"m=4 and 6 coefficients"),
    "groups": (lambda: changed(KAT_Group(), num_groups=4), r"num_groups=4"),
    "axis": (peer.KAT_1DGroupv2, r"for each rank of input"),
    "function": (lambda: PADEACTIVATION_Function_based(peer.PADEACTIVATION_F_cpp), r"PADEACTIVATION_F_cpp, whose formula"),
    "another formula": (lambda: Rational("A", formula="B"), r"at x = \S+ it gives \S+, expected"),
    "NaN": (lambda: diverged(), r"NaN or infinite; its training diverged"),
    "center": (lambda: centered(), r"adds its center \(\[0.3"),
}


def changed(module: nn.Module, **attributes: int) -> nn.Module:
    vars(module).update(attributes)
    return module


def diverged() -> Rational:
    module = Rational()
    module.numerator.data[2] = float("nan")
    return module


def centered() -> Rational:
    """Of the package's first releases."""
    module = Rational()
    module.center = nn.Parameter(torch.tensor([0.3]))
    return module


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented(name: str) -> None:
    make, message = REFUSED[name]
    net = nn.Sequential(Rational(), make())
    with pytest.raises(ReplacementError, match=message) as raised:
        adopt(net)
    assert "1 (" in str(raised.value)
    assert isinstance(net[0], Rational)  # nothing was replaced


class Vendored(Rational):
    """A copy of the class in a package of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


Vendored.__name__ = "Rational"


def test_a_copy_of_the_class_is_taken_if_it_computes_the_same() -> None:
    net = nn.Sequential(Vendored("B"), Vendored("A", formula="N"), Vendored("E", formula="A"))
    done = adopt(net)
    assert [m.name for m in done.modules] == ["0"]
    assert isinstance(net[1], Vendored)
    assert len(done.left) == 2
    assert "1 (tests.nn.test_adopt.Vendored) was left as it is: it does not compute" in done.left[0]
    assert "of version 'E'" in done.left[1]


def test_a_copy_that_cannot_run_is_left() -> None:
    class Mine(KAT_Group):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    Mine.__name__ = "KAT_Group"
    with pytest.raises(ReplacementError, match="could not be run to make sure"):
        adopt(nn.Sequential(Mine(path="cuda")))


def test_subclasses() -> None:
    class Kept(Rational):
        pass

    class Changed(Rational):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    net = nn.Sequential(Kept(), Changed())
    assert [m.name for m in adopt(net).modules] == ["0"]
    assert isinstance(net[1], Changed)


@pytest.mark.parametrize(("low", "factor"), [(0.0, 1 + 1e-11), (500.0, 1 + 1e-9), (7.99, -1.0)])
def test_a_difference_far_below_what_shows_in_float32_or_far_away_is_found(low: float, factor: float) -> None:
    class Slightly(Rational):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.where(x.abs() >= low, y * factor, y)

    Slightly.__name__ = "Rational"
    net = nn.Sequential(Rational(), Slightly())
    done = adopt(net)
    assert [m.name for m in done.modules] == ["0"]
    assert isinstance(net[1], Slightly)
    assert "does not compute" in done.left[0]


def test_nothing_to_adopt() -> None:
    with pytest.raises(ReplacementError, match=r"the model holds HP1, Linear, Sequential. .*replace_activations"):
        adopt(nn.Sequential(nn.Linear(2, 2), HP1()))


def test_a_module_that_ends_the_process_is_survived() -> None:
    """An older rational-activations calls exit where the denominator is the longer one."""

    class Exits(Rational):
        def forward(self, x: Tensor) -> Tensor:
            raise SystemExit(1)

    Exits.__name__, Exits.__module__ = "Rational", "rational.torch.rationals"
    done = adopt(Exits())
    assert done.modules[0].not_run == "SystemExit: 1"
