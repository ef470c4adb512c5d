"""What is drawn: values, derivative, start and inputs; and the picture itself."""

from __future__ import annotations

import importlib.util
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import opau_onnx
from opau_onnx.core.spec import FIXED_OP_TYPE
from opau_onnx.core.targets import TARGETS
from opau_onnx.errors import LoadError, ValidationError
from opau_onnx.io.source import as_source
from opau_onnx.nn import HP1, PAU, OrthogonalPade
from opau_onnx.plot import api, onnx_files, sheet, subjects
from tests.verify import nets

HERE = Path(__file__).resolve().parents[2]
LENET = HERE / "models" / "lenet_hp1_fashion_mnist.pt"
SVG = "{http://www.w3.org/2000/svg}"


class Scaled(nn.Module):
    """A batch normalization that opau-collapse absorbs into the activation after it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.act = HP1(groups=2, init="gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


def scaled() -> nn.Module:
    torch.manual_seed(1)
    model = Scaled().eval()
    with torch.no_grad():
        model.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        model.norm.running_var.copy_(torch.tensor([0.25, 0.5, 1.0, 2.0]))
        model.act.numerator[1] *= 2
    return model


def pictures(count: int = 3) -> Tensor:
    return torch.randn((count, 4, 5, 5), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported, and both collapsed forms of it; real inputs."""
    folder = tmp_path_factory.mktemp("plotted")
    found = {name: folder / f"{name}.onnx" for name in ("learned", "fused", "standard")}
    opau_onnx.export_model(scaled(), found["learned"], pictures(2), validate=False)
    for form in ("fused", "standard"):
        opau_onnx.collapse_model(found["learned"], found[form], form, comparing=opau_onnx.ValidationConfig(skip=True))
    np.savez(folder / "data.npz", x=pictures(8).numpy())
    return found | {"data": folder / "data.npz"}


def one(model: Any, inputs: Any = None, data: Any = None) -> subjects.Subject:
    found = subjects.of_source(as_source(model, inputs), data, 1000).found
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("module", [HP1(groups=3), OrthogonalPade("legendre", (3, 2), "abs_sum"), PAU("C"), PAU("N")])
def test_values_and_derivative(module: OrthogonalPade) -> None:
    with torch.no_grad():
        module.numerator.mul_(torch.linspace(0.5, 1.5, module.numerator.numel()).reshape(module.numerator.shape))
    subject = one(module.eval(), torch.zeros(2, 3))
    x = np.linspace(-3.0, 3.0, 41) + 1e-4
    for group in range(module.config.groups):
        channels = np.repeat(x[:, np.newaxis], module.config.groups, axis=1)
        expected = module.double()(torch.from_numpy(channels)).detach().numpy()[:, group]
        np.testing.assert_allclose(subject.value(x, group), expected, rtol=1e-9, atol=1e-12)
        step = 1e-6
        difference = (subject.value(x + step, group) - subject.value(x - step, group)) / (2 * step)
        np.testing.assert_allclose(subject.slope(x, group), difference, rtol=1e-5, atol=1e-6)


def test_the_start_is_the_fit_and_stays_when_coefficients_are_learned() -> None:
    model = HP1(init="silu").eval()
    x = np.linspace(-2.0, 2.0, 9)
    before = one(model, torch.zeros(1)).value(x, 0)
    with torch.no_grad():
        model.numerator += 1.0
    subject = one(model, torch.zeros(1))
    assert subject.target == "silu"
    start = subject.start_value(x)
    assert start is not None
    np.testing.assert_allclose(start, before, atol=1e-6)
    np.testing.assert_allclose(start, TARGETS["silu"](x), atol=0.05)
    assert np.abs(subject.value(x, 0) - start).max() > 0.5


def test_given_coefficients_have_no_start() -> None:
    model = OrthogonalPade.from_coefficients([0.0, 1.0], [0.5], opau_onnx.Config("power", "abs_terms", (1, 1))).eval()
    found = subjects.of_source(as_source(model, torch.zeros(1)), None, 1)
    assert found.found[0].start_value(np.zeros(1)) is None
    assert any("start" in note for note in found.notes)


def test_inputs_of_all_calls_and_of_the_data() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.never = HP1(), HP1()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.act(x) * 0 + 5)

    found = subjects.of_source(as_source(Twice().eval(), torch.tensor([[-1.0], [2.0]])), None, 1).found
    act, never = found
    assert act.inputs is not None
    assert (act.inputs.low, act.inputs.high, act.inputs.count) == (-1.0, 5.0, 4)
    assert never.inputs is None
    assert "never called" in never.note


def test_an_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(nets.classifier(), (nets.pictures(2),)), path)
    found = subjects.of_source(opau_onnx.load(path), None, 1)
    expected = subjects.of_source(as_source(nets.classifier(), nets.pictures(2)), None, 1)
    assert [s.name for s in found.found] == ["first", "second"]
    for ours, other in zip(found.found, expected.found, strict=True):
        assert ours.config == other.config
        assert np.array_equal(ours.numerator, other.numerator)
        assert ours.inputs is not None
        assert other.inputs is not None
        assert ours.inputs.low == pytest.approx(other.inputs.low)
        assert ours.start is None
    assert any("start" in note for note in found.notes)


def test_made_up_inputs_are_not_taken_for_real_ones(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save(nets.classifier().state_dict(), path)
    source = opau_onnx.load(path, factory="tests.verify.nets:classifier", input_shapes=[(1, 3, 8, 8)])
    found = subjects.of_source(source, None, 1)
    assert not found.inputs
    assert all(s.inputs is None for s in found.found)
    assert any("--data" in note for note in found.notes)
    assert all(s.start is not None for s in found.found)  # the factory made them


def test_a_file_draws_what_the_model_draws(exported: dict[str, Path]) -> None:
    expected = one(scaled(), pictures(), exported["data"])
    x = np.linspace(-4.0, 4.0, 33)
    assert expected.inputs is not None
    for form in ("learned", "fused"):
        (found,) = onnx_files.of_file(exported[form], exported["data"], 1000).found
        assert found.name == "act"
        assert found.start is None
        assert found.inputs is not None
        assert found.inputs.count == expected.inputs.count
        assert found.inputs.low == pytest.approx(expected.inputs.low, abs=1e-5)
        assert found.inputs.high == pytest.approx(expected.inputs.high, abs=1e-5)
    (learned,) = onnx_files.of_file(exported["learned"], None, 1).found
    assert learned.config == expected.config
    assert learned.inputs is None
    (fused,) = onnx_files.of_file(exported["fused"], None, 1).found
    kinds = [n.op_type for n in ir.load(exported["fused"]).graph]
    assert kinds == [FIXED_OP_TYPE]
    assert "scale" in fused.note
    for channel in range(4):  # a group of the fused node is a channel: each has an affine of its own
        group = channel if fused.config.groups == 4 else channel // 2
        np.testing.assert_allclose(fused.value(x, group), expected.value(x, channel // 2), rtol=1e-6, atol=1e-9)


def test_nothing_to_draw(exported: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"turned 1 into operators \(standard form\)"):
        api.plot_model(exported["standard"], tmp_path / "x.png")
    with pytest.raises(ValidationError, match="no learned activation"):
        api.plot_model(nn.Linear(2, 2).eval(), tmp_path / "x.png", torch.zeros(1, 2))
    plain = onnx.load(exported["learned"])
    del plain.graph.node[:]
    del plain.metadata_props[:]
    onnx.save(plain, tmp_path / "plain.onnx")
    with pytest.raises(ValidationError, match="there is nothing to draw"):
        api.plot_model(tmp_path / "plain.onnx", tmp_path / "x.png")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(LoadError, match="not a readable ONNX file"):
        api.plot_model(tmp_path / "bad.onnx", tmp_path / "x.png")
    with pytest.raises(LoadError, match="does not exist"):
        api.plot_model(tmp_path / "none.onnx", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"neither a .png nor an .svg"):
        api.plot_model(LENET, tmp_path / "x.jpg")
    with pytest.raises(ValidationError, match=r"the folder .* does not exist"):
        api.plot_model(LENET, tmp_path / "none" / "x.png")
    with pytest.raises(ValidationError, match=r"no activation's name matches 'fc9\*'; the model has conv1_activation"):
        api.plot_model(LENET, tmp_path / "x.png", layers="fc9*")
    with pytest.raises(ValidationError, match="cannot run on inputs"):
        api.plot_model(HP1(groups=2).eval(), tmp_path / "x.png", torch.zeros(1, 3))
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    with pytest.raises(ValidationError, match=r"pip install 'opau-onnx\[plot\]'"):
        api.plot_model(LENET, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def texts(path: Path) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.parse(path).iter(f"{SVG}text")]


def test_the_sheet_of_the_lenet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.svg"
    result = opau_onnx.plot_model(LENET, path, layers="conv*")
    assert result.drawn == ("conv1_activation", "conv2_activation")
    assert not result.left_out
    said = texts(path)
    wanted = ["conv1_activation", "conv2_activation", "hermite_e, abs_terms, degrees (5, 4)", "started as leaky_relu"]
    wanted += ["learned", "derivative", "start, before training", "inputs", "x", "f(x)", "f′(x)", "% of inputs"]
    for expected in wanted:
        assert expected in said, said
    again = tmp_path / "again.svg"
    opau_onnx.plot_model(LENET, again, layers="conv*")
    assert again.read_bytes() == path.read_bytes()
    opau_onnx.plot_model(LENET, tmp_path / "sheet.png", layers="conv1*")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.svg", "sheet.png", "sheet.svg"]


def test_groups_and_names_that_are_no_text(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a$b$<&>\x01": HP1(groups=40)})
    model.forward = lambda x: next(iter(model.values()))(x)  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = opau_onnx.plot_model(model.eval(), tmp_path / "x.svg", torch.randn(2, 40))
    said = texts(tmp_path / "x.svg")
    assert "a$b$<&>\N{REPLACEMENT CHARACTER}" in said
    assert "16 of 40 groups drawn" in said
    assert result.inputs == "the example input (2 rows)"


def test_many_activations_are_cut_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MOST", 1)
    result = api.plot_model(nets.classifier(), tmp_path / "x.svg", nets.pictures(2))
    assert (result.drawn, result.left_out) == (("first",), 1)
    assert result.notes[0] == "the first 1 of 2 activations; draw others with --layers"


def test_family() -> None:
    assert sheet.family(1) == [0]
    assert sheet.family(16) == list(range(16))
    many = sheet.family(100)
    assert len(many) == 16
    assert (many[0], many[-1]) == (0, 99)


def test_what_shoots_up_beside_a_pole_is_cut() -> None:
    x = np.linspace(-1.0, 1.0, 801) + 1e-5
    low, high = sheet.limits([1.0 / x])
    assert -700 < low < -1
    assert 1 < high < 700
    assert sheet.limits([np.full(3, np.nan)]) == (-1.0, 1.0)
    assert sheet.limits([np.zeros(5)]) == (-0.5, 0.5)
