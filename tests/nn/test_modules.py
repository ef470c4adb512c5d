"""The modules: what they are made of, how they print, copy, save, cast and refuse."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opau_onnx.core import oracle
from opau_onnx.core.spec import PAU_FORMS, Config
from opau_onnx.errors import SpecError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade, fit


def test_named_kinds() -> None:
    assert HP1().config == Config("hermite_e", "abs_terms", (5, 4))
    assert HP2().config == Config("hermite", "abs_terms", (5, 4))
    for version, form in PAU_FORMS.items():
        module = PAU(version)
        assert module.config == Config("power", form, (5, 4))
        assert module.version == version
    assert HP1(degrees=(3, 2), groups=4, axis=-1).config == Config("hermite_e", "abs_terms", (3, 2), 4, -1)


def test_parameters_hold_the_fit() -> None:
    module = HP1()
    found = fit("leaky_relu", module.config)
    assert module.fit == found
    assert [name for name, _ in module.named_parameters()] == ["numerator", "denominator"]
    assert module.numerator.tolist() == pytest.approx(found.numerator)
    assert module.denominator.tolist() == pytest.approx(found.denominator)
    x = torch.linspace(-3, 3, 100)
    assert (module(x) - torch.where(x > 0, x, 0.01 * x)).abs().max() < found.max_error + 1e-5


def test_sharing() -> None:
    grouped = HP1(groups=8)
    assert grouped.numerator.shape == (8, 6)
    assert grouped.denominator.shape == (8, 4)
    one_top = HP1(groups=8, shared_numerator=True)
    assert one_top.numerator.shape == (6,)
    assert one_top.denominator.shape == (8, 4)
    x = torch.randn(2, 16, 3)
    torch.testing.assert_close(grouped(x), HP1()(x))
    torch.testing.assert_close(one_top(x), HP1()(x))


def test_device_and_dtype() -> None:
    assert HP1(dtype=torch.float64).numerator.dtype == torch.float64
    assert HP1(device="meta").numerator.device.type == "meta"
    assert HP1(device="meta")(torch.zeros(2, 3, device="meta")).shape == (2, 3)
    half = HP1().half()
    x = torch.randn(100, dtype=torch.float16)
    y = half(x)
    assert y.dtype == torch.float16
    c, d = (p.detach().double() for p in (half.numerator, half.denominator))
    want = oracle.evaluate(half.config, x.double().numpy(), c, d)
    error = np.abs(y.detach().double().numpy() - want.value)
    assert (error <= want.bound * 2**-24 + np.abs(want.value) * 2**-11 + 2**-24).all()
    assert half.to_float32_at_least().numerator.dtype == torch.float32
    assert HP1(dtype=torch.float64).to_float32_at_least().numerator.dtype == torch.float64


def test_default_dtype() -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert HP1().numerator.dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_from_coefficients() -> None:
    c, d = [0.5, 1.0], torch.tensor([2.0, 3.0], dtype=torch.float64)
    module = OrthogonalPade.from_coefficients(c, d, Config("power", "abs_terms", (1, 2)))
    assert module.numerator.dtype == torch.get_default_dtype()
    assert module(torch.tensor(2.0)).item() == pytest.approx(2.5 / (1 + 4 + 12))
    assert module.fit is None
    assert "given coefficients" in repr(module)
    taken = OrthogonalPade.from_coefficients(d, d, Config("power", "abs_terms", (1, 2)))
    assert taken.numerator.dtype == torch.float64
    d[0] = 7.0
    assert taken.numerator[0] == 2.0, "a copy"
    with pytest.raises(SpecError, match=r"the numerator has shape \(2,\)"):
        OrthogonalPade.from_coefficients(c, d, Config())


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (HP1(), "HP1(hermite_e, abs_terms, degrees (5, 4), init: leaky_relu on [-3, 3], max error 0.09"),
        (PAU("C", groups=2, init=torch.tanh, interval=(-2, 2)),
         "PAU(power, pau_c, degrees (5, 4), 2 groups along axis 1, init: tanh on [-2, 2], max error "),
    ],
)  # fmt: skip
def test_text(module: OrthogonalPade, text: str) -> None:
    assert repr(module).startswith(text)
    assert module.fit is not None
    values = ", ".join(f"{v:.3g}" for v in module.fit.far)
    assert repr(module).endswith(f", values at -100, -10, 10, 100: {values})")


@pytest.mark.parametrize(("form", "gain"), [("abs_terms", 0.5), ("abs_sum", 0.9)])
def test_a_denominator_that_the_fit_leaves_out_learns(form: str, gain: float) -> None:
    """abs() has no slope at 0: with a denominator of exactly 0 only the numerator learns, and ends further off."""

    def loss_after(denominator: Tensor | None) -> tuple[float, Tensor]:
        act = OrthogonalPade("hermite_e", (3, 4), form, init=lambda x: x)
        if denominator is not None:
            act.denominator.data = denominator
        optimizer, x = torch.optim.Adam(act.parameters(), 1e-2), torch.linspace(-3, 3, 256)
        for _ in range(400):
            optimizer.zero_grad()
            loss = (act(x) - torch.relu(x)).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item(), act.denominator.detach()

    stuck, frozen = loss_after(torch.zeros(4))
    assert not frozen.any()
    found, learned = loss_after(None)
    assert learned.abs().max() > 0.01
    assert found < gain * stuck


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), HP1(groups=3), nn.Conv2d(6, 4, 3), PAU("D"), nn.Flatten())


def test_state_dict_round_trip() -> None:
    first, second = model(), model()
    with torch.no_grad():
        for p in first.parameters():
            p.add_(0.01)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(first(x), second(x))
    assert set(first.state_dict()) >= {"1.numerator", "1.denominator", "3.numerator", "3.denominator"}
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(first(x), second(x))


def test_copies() -> None:
    first, x = model(), torch.randn(2, 3, 8, 8)
    stream = io.BytesIO()
    torch.save(first, stream)
    stream.seek(0)
    for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first)), torch.load(stream, weights_only=False)):
        assert torch.equal(first(x), other(x))
        assert repr(other) == repr(first)
        other[1].numerator.data.zero_()
        assert first[1].numerator.any()


def test_autocast_computes_in_float32() -> None:
    """Under autocast a 16-bit input is evaluated in float32, with no rounding of coefficients or intermediate results."""
    module = HP1()
    x = torch.randn(500).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        wide = module(x.float())
        through = nn.Sequential(nn.Linear(20, 20), HP1(), nn.Linear(20, 2))(torch.randn(4, 20))
    assert y.dtype == torch.bfloat16
    assert wide.dtype == torch.float32
    assert torch.equal(wide, module(x.float()))
    assert torch.equal(y, wide.bfloat16())
    assert through.dtype == torch.bfloat16
    through.sum().backward()


def test_errors() -> None:
    with pytest.raises(SpecError, match="unknown PAU version 'E'; expected one of A, B, C, D, N"):
        PAU("E")
    with pytest.raises(SpecError, match="unknown basis"):
        OrthogonalPade("sine")
    with pytest.raises(SpecError, match="7 groups do not divide"):
        HP1(groups=7)(torch.zeros(2, 6))
    with pytest.raises(SpecError, match="no axis 1"):
        HP1(groups=2)(torch.zeros(4))


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 16), HP1(), nn.Linear(16, 16), HP2(), nn.Linear(16, 1))
    x = torch.linspace(-2, 2, 200)[:, None]
    want = torch.sin(3 * x)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    before = [p.detach().clone() for p in net[1].parameters()]
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (net(x) - want).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert all((p != q).any() for p, q in zip(net[1].parameters(), before, strict=True))
