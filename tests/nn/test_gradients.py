"""The explicit backward pass: gradcheck, autograd of the naive formula, exact slopes far out, and what it keeps."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.nn import OrthogonalPade, fit, orthogonal_pade, traceable
from tests.cases import SAFE, SHARINGS, Case, Sharing, case, exact_basis, monomials
from tests.nn.naive import naive

SMALL = [case(b, f, d) for b in BASES for f in FORMS for d in ((3, 2), (0, 2), (2, 0), (0, 0))]
GROUPED = [case(b, f, (3, 2), s) for b, f in zip(BASES, [*FORMS, "abs_terms"], strict=True) for s in SHARINGS[1:]]


def leaves(at: Case, x: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    c, d = (torch.tensor(v, dtype=dtype) for v in (at.numerator, at.denominator))
    return tuple(v.clone().to(dtype).requires_grad_() for v in (x, c, d))  # type: ignore[return-value]


def sample(at: Case, *shape: int) -> Tensor:
    """Inputs away from poles and from the places where an absolute value or a clamp has its kink."""
    shape = shape or ((7,) if at.config.groups == 1 else at.shape)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, generator=generator, dtype=torch.float64) * 4 - 2
    y = naive(x, *(torch.tensor(v if v.ndim == 1 else v[0]) for v in (at.numerator, at.denominator)), _shared(at.config))
    steady = x[(y.abs() < 20) & (x.abs() > 0.01)]
    return steady[torch.randint(len(steady), (int(np.prod(shape)),), generator=generator)].reshape(shape)


def _shared(config: Config) -> Config:
    return Config(config.basis, config.form, config.degrees)


@pytest.mark.parametrize("at", SMALL, ids=str)
def test_gradcheck(at: Case) -> None:
    inputs = leaves(at, sample(at))
    assert torch.autograd.gradcheck(lambda *v: orthogonal_pade(*v, at.config), inputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at", [case(b, f, (2, 2)) for b, f in (("hermite_e", "abs_terms"), ("laguerre", "abs_sum"),
                                ("legendre", "pau_c"), ("power", "plain"), ("hermite", "free"), ("chebyshev", "clamped"))]
                         + [GROUPED[0]], ids=str)  # fmt: skip
def test_gradgradcheck(at: Case) -> None:
    inputs = leaves(at, sample(at, *((4,) if at.config.groups == 1 else (1, 3, 2))))
    assert torch.autograd.gradgradcheck(lambda *v: orthogonal_pade(*v, at.config), inputs, atol=1e-3, rtol=1e-3)


def gradients(function: object, inputs: tuple[Tensor, ...], config: Config, g: Tensor) -> tuple[Tensor, ...]:
    y = function(*inputs, config)  # type: ignore[operator]
    used = [v for v in inputs if v.numel()]
    found = iter(torch.autograd.grad(y, used, g, allow_unused=True))
    return tuple(next(found) if v.numel() else torch.zeros_like(v) for v in inputs)


@pytest.mark.parametrize("at", [*[case(b, f) for b in BASES for f in FORMS], *GROUPED], ids=str)
def test_equal_to_autograd_of_the_naive_formula(at: Case) -> None:
    x = sample(at, 200) if at.config.groups == 1 else sample(at)
    g = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = leaves(at, x)
    ours, theirs = (gradients(function, inputs, at.config, g) for function in (orthogonal_pade, naive))
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("at", [case(b, f) for b in BASES for f in SAFE] + GROUPED[:7], ids=str)
def test_branch_free_gradient_equals_the_kernels(at: Case) -> None:
    x = sample(at)
    inputs, g = leaves(at, x), torch.ones(x.shape, dtype=torch.float64)
    found = traceable.backward(at.config, *inputs, g, need_x=True, need_coefficients=True)
    for got, want in zip(found, gradients(orthogonal_pade, inputs, at.config, g), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sharing", [SHARINGS[0], SHARINGS[1]], ids=lambda s: s.name)
@pytest.mark.parametrize("form", SAFE)
@pytest.mark.parametrize("basis", BASES)
def test_float32_coefficient_gradients_of_large_tensors(basis: str, form: str, sharing: Sharing) -> None:
    """Sums over many elements keep float32's accuracy."""
    at = _fitted(basis, form, sharing)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 6, 1 << 14, generator=generator) * 0.8
    g = torch.randn(x.shape, generator=generator)
    ours = gradients(orthogonal_pade, leaves(at, x, torch.float32), at.config, g)
    want = gradients(naive, leaves(at, x), at.config, g.double())
    near = torch.isclose(ours[0].double(), want[0], rtol=1e-3, atol=2e-5 * float(want[0].abs().max()))
    # An element next to the kink of abs(sum) may fall on its other side in float32: it is left out.
    assert int((~near).sum()) <= (0 if form == "abs_terms" else 2)
    g = torch.where(near, g, 0.0)
    ours = gradients(orthogonal_pade, leaves(at, x, torch.float32), at.config, g)
    want = gradients(naive, leaves(at, x), at.config, g.double())
    tolerance = 2e-5 if form == "abs_terms" else 2e-4
    for got, right in zip(ours[1:], want[1:], strict=True):
        scale = np.sqrt(x.numel())  # of a sum of that many terms of random sign, each about 1
        assert (got.double() - right).abs().max() < tolerance * max(scale, float(right.abs().max()))


def _fitted(basis: str, form: str, sharing: Sharing) -> Case:
    """Coefficients as training starts from: with Q away from zero, so that no condition number hides an error."""
    config = Config(basis, form, (5, 4), sharing.groups, sharing.axis)
    found = fit("leaky_relu", config)
    rows = (1,) if sharing.groups == 1 else (sharing.groups, 1)
    c, d = (np.tile(np.float32(v), rows).astype(np.float64) for v in (found.numerator, found.denominator))
    return Case(config, c, d)


def exact_slope(at: Case, x: float) -> float:
    """dy/dx of the form with absolute terms, exactly."""
    at_x, config = Fraction(x), at.config
    f = exact_basis(config.basis, config.top, at_x)
    powers = [monomials(config.basis, n) for n in range(config.top + 1)]
    slopes = [sum(i * m * at_x ** (i - 1) for i, m in enumerate(row) if i) for row in powers]
    c, d = ([Fraction(v) for v in values] for values in (at.numerator, at.denominator))
    p, dp = (sum(ci * v for ci, v in zip(c, rows, strict=False)) for rows in (f, slopes))
    q = 1 + sum(abs(dj * fj) for dj, fj in zip(d, f[1:], strict=False))
    dq = sum(abs(dj) * (1 if fj > 0 else -1) * sj for dj, fj, sj in zip(d, f[1:], slopes[1:], strict=False))
    return float((dp * q - p * dq) / q**2)


@pytest.mark.parametrize("degrees", [(5, 4), (4, 4), (3, 4)])
@pytest.mark.parametrize("basis", BASES)
def test_slope_far_out(basis: str, degrees: tuple[int, int]) -> None:
    """Right, not only finite, at 1e30: for k = l + 1 the slope is c_k / abs(d_l), though every power has overflowed."""
    at = case(basis, "abs_terms", degrees)
    x = torch.tensor([1e30, -1e30, 1e10, -7e6, 1e36], dtype=torch.float32)
    inputs = leaves(at, x, torch.float32)
    (dx,) = torch.autograd.grad(orthogonal_pade(*inputs, at.config).sum(), inputs[0], create_graph=True)
    plain = gradients(orthogonal_pade, leaves(at, x, torch.float32), at.config, torch.ones_like(x))
    want = torch.tensor([exact_slope(at, v) for v in x.tolist()])
    for got in (dx.detach(), plain[0]):
        torch.testing.assert_close(got, want, rtol=1e-4 if degrees[0] > degrees[1] else 1e-3, atol=1e-6)
    assert all(torch.isfinite(v).all() for v in plain)


@pytest.mark.parametrize("form", SAFE)
def test_gradients_are_finite_where_the_value_is(form: str) -> None:
    for basis in BASES:
        at = case(basis, form, (5, 4))
        x = torch.tensor([1e36, -1e36, 1e20, 0.0, -0.0, 1e-45])
        for gradient in gradients(orthogonal_pade, leaves(at, x, torch.float32), at.config, torch.full_like(x, 1e-3)):
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("need", [(True, False, False), (False, True, True), (False, True, False), (False, False, True)])
def test_only_what_is_needed(need: tuple[bool, bool, bool]) -> None:
    at = case("hermite_e", "abs_terms")
    inputs = leaves(at, sample(at))
    want = gradients(orthogonal_pade, inputs, at.config, torch.ones_like(inputs[0]))
    again = tuple(v.detach().requires_grad_(n) for v, n in zip(inputs, need, strict=True))
    orthogonal_pade(*again, at.config).sum().backward()
    for v, n, w in zip(again, need, want, strict=True):
        assert (v.grad is not None) == n
        if n:
            torch.testing.assert_close(v.grad, w, rtol=0, atol=0)


def test_nothing_needed() -> None:
    at = case("hermite_e", "abs_terms")
    y = orthogonal_pade(*(v.detach() for v in leaves(at, sample(at))), at.config)
    assert not y.requires_grad
    with torch.no_grad():
        assert not orthogonal_pade(*leaves(at, sample(at)), at.config).requires_grad


@pytest.mark.parametrize("groups", [1, 6])
def test_gradients_in_any_memory_format(groups: int) -> None:
    at = case("laguerre", "abs_sum", (3, 2), SHARINGS[0] if groups == 1 else SHARINGS[2])
    x = sample(at, 4, 6, 3, 5)
    g = torch.randn(x.shape, dtype=torch.float64)
    last = {"memory_format": torch.channels_last}
    want = gradients(orthogonal_pade, leaves(at, x), at.config, g)
    for other, other_g in (
        (x.contiguous(**last), g),
        (x, g.contiguous(**last)),
        (x.contiguous(**last), g.contiguous(**last)),
    ):
        found = gradients(orthogonal_pade, leaves(at, other), at.config, other_g)
        for one, two in zip(found, want, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert found[0].stride() == x.contiguous(**last).stride()
    summed = leaves(at, x)
    orthogonal_pade(*summed, at.config).sum().backward()  # an expanded gradient
    ones = gradients(orthogonal_pade, leaves(at, x), at.config, torch.ones_like(x))
    torch.testing.assert_close(summed[0].grad, ones[0], rtol=0, atol=0)


def test_expanded_input_gets_the_summed_gradient() -> None:
    at = case("legendre", "pau_c", (3, 2))
    small, c, d = leaves(at, sample(at, 5))
    orthogonal_pade(small.expand(4, 5), c, d, at.config).sum().backward()
    one = leaves(at, small.detach())
    orthogonal_pade(*one, at.config).sum().backward()
    torch.testing.assert_close(small.grad, 4 * one[0].grad)
    torch.testing.assert_close(c.grad, 4 * one[1].grad)


def test_empty_and_scalar() -> None:
    at = case("hermite_e", "abs_terms")
    for x in (torch.zeros(0), torch.zeros(2, 0)):
        x, c, d = leaves(at, x)
        orthogonal_pade(x, c, d, at.config).sum().backward()
        dx, dc, dd = x.grad, c.grad, d.grad
        assert dx.shape == x.shape
        assert not dc.any()
        assert not dd.any()
    inputs = leaves(at, torch.tensor(0.3))
    orthogonal_pade(*inputs, at.config).backward()
    assert inputs[0].grad is not None
    assert inputs[0].grad.shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_16_bit_inputs(dtype: torch.dtype) -> None:
    at = case("hermite_e", "abs_terms")
    x = sample(at, 50).to(dtype)
    _, c, d = leaves(at, x, torch.float32)
    x16, x32 = x.clone().requires_grad_(), x.float().requires_grad_()
    g = torch.linspace(-1, 1, 50).to(dtype)
    ours = gradients(orthogonal_pade, (x16, c, d), at.config, g)
    want = gradients(orthogonal_pade, (x32, c, d), at.config, g.float())
    assert ours[0].dtype == dtype
    torch.testing.assert_close(ours[0], want[0].to(dtype), rtol=0, atol=0)
    for got, right in zip(ours[1:], want[1:], strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=0)


@pytest.mark.parametrize("sharing", SHARINGS[:3], ids=lambda s: s.name)
@pytest.mark.parametrize("need_coefficients", [True, False])
def test_forward_keeps_the_input_and_the_coefficients_alone(sharing: Sharing, need_coefficients: bool) -> None:
    at = case("hermite_e", "abs_terms", (5, 4), sharing)
    x, c, d = leaves(at, sample(at), torch.float32)
    c.requires_grad_(need_coefficients)
    d.requires_grad_(need_coefficients)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = orthogonal_pade(x, c, d, at.config)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), c.data_ptr(), d.data_ptr()}
    assert sum(t.nbytes for t in kept) == x.nbytes + c.nbytes + d.nbytes
    y.sum().backward()


def test_changing_the_input_in_place_is_noticed() -> None:
    at = case("hermite_e", "abs_terms")
    x, c, d = leaves(at, sample(at))
    shifted = x + 1
    y = orthogonal_pade(shifted, c, d, at.config)
    shifted.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("degrees", [(3, 0), (0, 0), (0, 3)])
@pytest.mark.parametrize("form", ["abs_terms", "abs_sum", "plain", "pau_c"])
def test_empty_rows_of_coefficients_under_transforms(form: str, degrees: tuple[int, int], shared: bool, groups: int) -> None:
    """A denominator without coefficients: double backward, many gradients at once, meta tensors."""
    act = OrthogonalPade("hermite_e", degrees, form, groups=groups, shared_numerator=shared, dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, *act.parameters()]
    want = torch.autograd.grad(act(x).square().sum(), inputs)
    found = torch.autograd.grad(act(x).square().sum(), inputs, create_graph=True)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    g = torch.randn(5, 3, 4, dtype=torch.float64)
    many = torch.autograd.grad(act(x), inputs, g, is_grads_batched=True)
    for i in range(5):
        one = torch.autograd.grad(act(x), inputs, g[i])
        for a, b in zip(many, one, strict=True):
            torch.testing.assert_close(a[i], b, atol=1e-9, rtol=1e-9)
    torch.autograd.functional.jacobian(act, x.detach(), vectorize=True)
    meta = act.to("meta")
    meta(x.detach().to("meta").requires_grad_()).sum().backward()
    assert [p.grad.shape for p in meta.parameters() if p.grad is not None] == [p.shape for p in meta.parameters()]
