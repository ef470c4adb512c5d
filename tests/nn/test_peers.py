"""The peers' formulas, each written out here as its library documents it: our configurations represent them exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from opau_onnx.core import oracle
from opau_onnx.core.spec import PAU_FORMS, Config
from opau_onnx.nn import PAU, OrthogonalPade
from opau_onnx.nn.loading import AssumedConfigWarning
from tests.cases import trusted


def powers(x: Tensor, coefficients: Tensor, first: int) -> list[Tensor]:
    return [a * x**i for i, a in enumerate(coefficients, start=first)]


def rational_a(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """rational-activations A, ml-research/pau: each term in absolute value."""
    return sum(powers(x, a, 0)) / (1 + sum(t.abs() for t in powers(x, b, 1)))


def rational_b(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """B, and D at inference: the absolute value of the sum."""
    return sum(powers(x, a, 0)) / (1 + sum(powers(x, b, 1)).abs())


def rational_c(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """C: 0.1 plus the absolute value of a sum that starts at j = 0."""
    return sum(powers(x, a, 0)) / (0.1 + sum(powers(x, b, 0)).abs())


def rational_n(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """N: the plain quotient."""
    return sum(powers(x, a, 0)) / (1 + sum(powers(x, b, 1)))


def clamped_pau(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Padé Activation Unit by default: a plain denominator that stays above 1e-8."""
    return sum(powers(x, a, 0)) / torch.clamp(1 + sum(powers(x, b, 1)), min=1e-8)


def rational_nets(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """RationalNets: two plain polynomials (their coefficients stand highest power first; turned around here)."""
    return sum(powers(x, a, 0)) / sum(powers(x, b, 0))


PEERS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str, tuple[int, int]]] = {
    "A": (rational_a, "abs_terms", (5, 4)),
    "B": (rational_b, "abs_sum", (5, 4)),
    "C": (rational_c, "pau_c", (5, 4)),
    "D": (rational_b, "abs_sum", (5, 4)),
    "N": (rational_n, "plain", (5, 4)),
    "Padé Activation Unit": (clamped_pau, "clamped", (5, 4)),
    "RationalNets": (rational_nets, "free", (3, 2)),
}


def draw(config: Config, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]
        torch.randn(n, generator=generator, dtype=torch.float64) for n in (config.numerator_size, config.denominator_size)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", PEERS)
def test_peer(name: str, dtype: torch.dtype) -> None:
    """A few ulp of the terms' size: both sides round, in different orders."""
    formula, form, degrees = PEERS[name]
    config = Config("power", form, degrees)
    u = torch.finfo(dtype).eps / 2
    x = torch.linspace(-4, 4, 801, dtype=dtype)
    compared = 0
    for seed in range(10):
        c, d = (v.to(dtype) for v in draw(config, seed))
        module = OrthogonalPade.from_coefficients(c, d, config)
        want = oracle.evaluate(config, x.double().numpy(), c.double(), d.double())
        steady = trusted(config, want, u)
        compared += int(steady.sum())
        theirs, ours = (v.detach().double().numpy() for v in (formula(x, c, d), module(x)))
        assert (np.abs(ours - want.value)[steady] <= (want.bound * u)[steady]).all()
        assert (np.abs(ours - theirs)[steady] <= 2 * (want.bound * u)[steady]).all()
    assert compared > 7500


@pytest.mark.parametrize("version", PAU_FORMS)
def test_pau_module_takes_the_peer_s_coefficients(version: str) -> None:
    module = PAU(version, dtype=torch.float64)
    formula, form, _ = PEERS[version]
    assert module.config.form == form
    a, b = draw(module.config, 3)
    with pytest.warns(AssumedConfigWarning):  # a peer's state does not say its function
        module.load_state_dict({"numerator": a, "denominator": b})
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(module(x).detach(), formula(x, a, b), rtol=1e-10, atol=1e-12)


def kat_group(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """KAT_Group: (batch, tokens, channels); one numerator for all, one row of the denominator a group of channels."""
    groups = denominator.shape[0]
    wide = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    out = [rational_a(wide[..., g, :], numerator[0], denominator[g]) for g in range(groups)]
    return torch.stack(out, -2).reshape(x.shape)


@pytest.mark.parametrize("axis", [-1, 1])
def test_kat(axis: int) -> None:
    """Channels last as KAT_Group has them, and on axis 1 as KAT_Group2D."""
    generator = torch.Generator().manual_seed(0)
    numerator = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    denominator = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    config = Config("power", "abs_terms", (5, 4), groups=8, axis=axis)
    module = OrthogonalPade.from_coefficients(numerator[0], denominator, config)
    x = torch.randn(3, 7, 48, generator=generator, dtype=torch.float64)
    want = kat_group(x, numerator, denominator)
    got = module(x) if axis == -1 else module(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=1e-13)
    single = OrthogonalPade.from_coefficients(numerator[0].float(), denominator.float(), config)
    assert (single(x.float() if axis == -1 else x.float().movedim(-1, 1)).isfinite()).all()


def test_rational_nets_with_their_own_order_of_coefficients() -> None:
    """coeffs (4, 2), highest power first, zeros in front where a polynomial is shorter."""
    coeffs = torch.tensor([[1.1915, 0.0], [1.5957, 2.383], [0.5, 0.0], [0.0218, 1.0]], dtype=torch.float64)
    numerator, denominator = coeffs[:, 0].flip(0), coeffs[:, 1].flip(0)[:3]
    module = OrthogonalPade.from_coefficients(numerator, denominator, Config("power", "free", (3, 2)))
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    want = torch.stack([_horner(v, coeffs) for v in x])
    torch.testing.assert_close(module(x).detach(), want, rtol=1e-14, atol=1e-15)


def _horner(x: Tensor, coeffs: Tensor) -> Tensor:
    total = torch.zeros(2, dtype=torch.float64)
    for row in coeffs:
        total = total * x + row
    return total[0] / total[1]
