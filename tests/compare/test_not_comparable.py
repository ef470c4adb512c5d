"""What cannot be compared is never called equal: random models, NaN, tolerances that allow anything, shared examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.export import app
from opau_onnx.compare import policies
from opau_onnx.errors import ExportError, LoadError, NotComparableError
from opau_onnx.nn import HP1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(4, 8), HP1()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x))


class Dropped(Net):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(super().forward(x), 0.5, training=True)


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn_like(x[:, :1])


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1.0
        return super().forward(x) * self.count


def example() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [Dropped, Noisy, Counting])
def test_results_that_are_no_function_of_the_input(kind: type[Net], tmp_path: Path) -> None:
    result = opau_onnx.export_model(kind().eval(), tmp_path / "m.onnx", example())
    assert result.equal is False
    assert result.validation is not None
    assert result.validation.verdict == "not comparable"
    assert "draws random numbers, or changes its state" in result.validation.reason
    assert result.path.name == "m.rejected.onnx"
    assert not (tmp_path / "m.onnx").exists()
    assert result.as_dict()["validation"]["reason"] == result.validation.reason
    with pytest.raises(NotComparableError, match="draws random numbers"):
        opau_onnx.verify_model(kind().eval(), result.path, example(), runtimes=["ort-function"])


def test_the_command_says_so_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "field_net.py").write_text(
        "import torch\nfrom opau_onnx.nn import HP1\nclass Net(torch.nn.Sequential):\n    def forward(self, x):\n"
        "        return super().forward(x) + torch.randn_like(x)\ndef make():\n    return Net(torch.nn.Linear(4, 4), HP1())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import field_net  # type: ignore[import-not-found]

    torch.save(field_net.make().state_dict(), "w.pt")
    done = CliRunner().invoke(app, ["w.pt", "m.onnx", "--model", "field_net:make", "--input-shape", "3,4"])
    assert done.exit_code == 1
    assert "NOT COMPARABLE: two runs of the model on the same input differ" in done.output
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == ["m.rejected.onnx"]


@pytest.mark.parametrize("name", ["act.numerator", "layer.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(name: str, value: float, tmp_path: Path) -> None:
    net = Net().eval()
    with torch.no_grad():
        net.get_parameter(name).view(-1)[1] = value
    with pytest.raises(LoadError, match=rf"{name} holds NaN or infinity"):
        opau_onnx.export_model(net, tmp_path / "m.onnx", example())
    assert not list(tmp_path.iterdir())


def test_infinities_in_a_mask_are_weights_of_nothing(tmp_path: Path) -> None:
    class Masked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(super().forward(x)[:, None, :] + self.mask, -1).sum(1)

    assert opau_onnx.export_model(Masked().eval(), tmp_path / "m.onnx", example()).equal


def test_outputs_that_are_nan_are_not_equal(tmp_path: Path) -> None:
    class Root(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(-torch.ones_like(x[:, :1])) + super().forward(x)

    result = opau_onnx.export_model(Root().eval(), tmp_path / "m.onnx", example())
    assert result.validation is not None
    assert result.validation.verdict == "not comparable"
    assert "NaN for finite inputs" in result.validation.reason


def test_a_tolerance_that_would_allow_anything() -> None:
    values = np.array([0.5, -2.0])
    policies.refuse_vague("y", 0.99, values)
    policies.refuse_vague("y", 0.0, np.zeros(2))
    with pytest.raises(NotComparableError, match=r"y is at most 2, .* 1.01 would have to be allowed"):
        policies.refuse_vague("y", 1.01, values)


def test_one_tensor_given_as_two_inputs(tmp_path: Path) -> None:
    class Siamese(Net):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a) - 2.0 * super().forward(b)

    net, x = Siamese().eval(), example()
    assert opau_onnx.export_model(net, tmp_path / "m.onnx", (x, x), validate=False).equal is None
    session = ort.InferenceSession(tmp_path / "m.onnx")
    assert [i.name for i in session.get_inputs()] == ["a", "b"]
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    (y,) = session.run(None, {"a": a.numpy(), "b": b.numpy()})
    np.testing.assert_allclose(y, net(a, b).detach().numpy(), atol=1e-5)


def test_a_child_in_training_mode_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(Net(), nn.Dropout(0.5)).eval()
    net[1].train()
    with pytest.raises(ExportError, match=r"1 modules inside are in training mode \(1\)"):
        opau_onnx.export_model(net, tmp_path / "m.onnx", example())
