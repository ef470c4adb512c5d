"""The activation as people's own code uses it: in place, under torch.jit, with integers, made by factories."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from opau_onnx.errors import SpecError
from opau_onnx.nn import HP1, PAU, OrthogonalPade, implementation


def layouts() -> list[Tensor]:
    x = torch.randn(2, 6, 4, 4)
    return [
        x,
        x.to(memory_format=torch.channels_last),
        x[:, :, ::2],
        x.transpose(1, 3)[:, :, :, :6],
        torch.randn(0, 6),
        x[:, :1],
    ]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("which", range(6))
def test_results_may_be_changed_in_place(which: int, groups: int) -> None:
    x = layouts()[which].clone(memory_format=torch.preserve_format).requires_grad_()
    if x.shape[1] % groups:
        pytest.skip("the channels are no multiple of the groups")
    act = OrthogonalPade(groups=groups)
    plain = act(x)
    assert plain._base is None
    if implementation().kernel:  # PyTorch's operations bring groups together by a reshape
        assert plain.stride() == torch.empty_like(x).stride()
    y = act(x)
    y += 1
    torch.testing.assert_close(y, plain + 1)
    y.sum().backward()
    changed, x.grad = x.grad, None
    plain.sum().backward()
    assert changed is not None
    torch.testing.assert_close(changed, x.grad)


@pytest.mark.parametrize("groups", [1, 2])
def test_torch_jit_trace_of_two_activations(groups: int) -> None:
    model = nn.Sequential(nn.Linear(4, 8), OrthogonalPade(groups=groups), nn.Linear(8, 4), HP1()).eval()
    x = torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced = torch.jit.trace(model, x)
    for rows in (3, 5):
        at = torch.randn(rows, 4) * 3
        assert torch.equal(traced(at), model(at))


def test_onnx_export_by_torchscript(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), HP1(), nn.Linear(8, 4), OrthogonalPade(groups=2)).eval(), torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(tmp_path / "m.onnx"), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    session = ort.InferenceSession(tmp_path / "m.onnx")
    for at in (x, torch.randn(7, 4) * 3):
        (y,) = session.run(None, {"x": at.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(at), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("x", [torch.arange(4), torch.tensor([True]), torch.zeros(2, dtype=torch.complex64)])
def test_inputs_that_are_not_floating(x: Tensor) -> None:
    with pytest.raises(SpecError, match=f"the input is {str(x.dtype)[6:]}; expected a floating type"):
        HP1()(x)


@pytest.mark.parametrize("kind", [HP1, PAU, OrthogonalPade])
def test_the_argument_that_factories_pass(kind: type[OrthogonalPade]) -> None:
    x = torch.randn(3)
    given = x.clone()
    torch.testing.assert_close(kind(inplace=True)(x), kind()(x))
    assert torch.equal(x, given)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors() -> None:
    parts = [torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)]
    act = HP1()
    for layout in (torch.strided, torch.jagged):
        y = act(torch.nested.as_nested_tensor(parts, layout=layout))
        assert y.is_nested
        for part, got in zip(parts, y.unbind(), strict=True):
            torch.testing.assert_close(got, act(part))
        (g,) = torch.autograd.grad(torch.cat([t.flatten() for t in y.unbind()]).sum(), parts[0])
        torch.testing.assert_close(g, torch.autograd.grad(act(parts[0]).sum(), parts[0])[0])
    with pytest.raises(SpecError, match="nested tensor, which has no channel axis"):
        HP1(groups=2)(torch.nested.as_nested_tensor(parts, layout=torch.strided))


@pytest.mark.parametrize("x", [torch.randn(3, 4).to_sparse(), torch.randn(3, 4).to_mkldnn()])
def test_layouts_that_are_not_dense(x: Tensor) -> None:
    with pytest.raises(SpecError, match=r"layout is torch\..*; expected a dense tensor, as x.to_dense\(\) gives"):
        HP1()(x)


@pytest.mark.parametrize("groups", [1, 2])
def test_traced_by_make_fx_and_fake_tensors(groups: int) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    act, x = HP1(groups=groups), torch.randn(3, 4, requires_grad=True)

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(act(x).sum(), x)[0]

    torch.testing.assert_close(make_fx(act)(torch.randn(3, 4))(x), act(x))
    torch.testing.assert_close(make_fx(gradient)(torch.randn(3, 4, requires_grad=True))(x), gradient(x))
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.randn(3, 4, requires_grad=True)
        act(fake).sum().backward()
        assert fake.grad is not None
        assert fake.grad.shape == (3, 4)
    with FakeTensorMode():
        assert HP1(groups=groups)(torch.randn(5, 4)).shape == (5, 4)
