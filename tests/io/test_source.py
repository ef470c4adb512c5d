"""Files and what becomes of them; the refused ones are in test_pickles.py."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from opau_onnx import models
from opau_onnx.errors import LoadError, SpecError
from opau_onnx.io.atomic import replacing
from opau_onnx.io.checkpoint import save_checkpoint
from opau_onnx.io.source import load, sha256
from opau_onnx.nn import HP1, modules


def build() -> nn.Module:
    """The factory that the tests name."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), HP1(), nn.Linear(5, 3))


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """ "module:callable" of :func:`build`, importable from the current folder."""
    name = f"factory_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nfrom opau_onnx.nn import HP1\n"
        "class nets:\n    @staticmethod\n    def build():\n"
        "        return torch.nn.Sequential(torch.nn.Linear(4, 5), HP1(), torch.nn.Linear(5, 3))\n"
        "def text():\n    return 'text'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:nets.build"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "lenet.pt"
    model = models.create("lenet", activation="relu")
    arguments = {"activation": "relu"}
    images = torch.randn(100, 1, 28, 28)
    save_checkpoint(path, architecture="lenet", arguments=arguments, model=model, example_input=images[:2], training={})
    return path


def test_a_checkpoint_round_trip(checkpoint: Path) -> None:
    found = load(checkpoint)
    assert (found.kind, found.name, found.sha256) == ("checkpoint", "lenet.pt", sha256(checkpoint))
    assert not found.model.training
    assert [tuple(x.shape) for x in found.inputs] == [(2, 1, 28, 28)]
    assert checkpoint.stat().st_size < 300_000  # the two images, not the hundred that they were cut from
    assert [p.name for p in checkpoint.parent.iterdir()] == ["lenet.pt"]


def test_the_same_checkpoint_has_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    found = load(checkpoint)
    (tmp_path / "again").mkdir()
    other = tmp_path / "again" / "other_name.pt"
    save_checkpoint(
        other,
        architecture="lenet",
        arguments=content["arguments"],
        model=found.model,
        example_input=found.inputs[0],
        training={},
    )
    assert sha256(other) == sha256(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "opau_onnx.checkpoint/99"}, "this version reads"),
        ({"architecture": "unheard"}, "unknown architecture"),
        ({"arguments": {"activation": "unheard"}}, "unknown activation"),
        ({"arguments": {"nothing": 1}}, "lenet"),
        ({"state_dict": {}}, "do not fit"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "do not fit"),
        ({"example_input": None}, "without example_input"),
        ({"example_input": [1.0]}, "not of the right kind"),
        ({"architecture": ["lenet"]}, "not of the right kind"),
        ({"arguments": [1]}, "not of the right kind"),
        ({"arguments": {1: 2}}, "cannot be made"),
        ({"arguments": {"activation": ["relu"]}}, "cannot be made"),
        ({"arguments": {"activation": "relu", "classes": -1}}, "classes is -1; expected a whole number"),
        ({"state_dict": [1]}, "do not fit"),
    ],
)
def test_checkpoints_that_do_not_fit(checkpoint: Path, change: dict[str, Any], message: str) -> None:
    content = {**torch.load(checkpoint, weights_only=True), **change}
    torch.save({k: v for k, v in content.items() if v is not None}, checkpoint)
    with pytest.raises(LoadError, match=message):
        load(checkpoint)


def test_training_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(
            tmp_path / "a.pt",
            architecture="lenet",
            arguments={},
            model=build(),
            example_input=torch.zeros(1),
            training={"x": {1}},
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_state_dict(tmp_path: Path, factory: str, suffix: str, nested: bool) -> None:
    model, path = build(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"state_dict": model.state_dict(), "epoch": 3} if nested else model.state_dict(), path)
    found = load(path, factory=factory, input_shapes=[(2, 4)])
    assert found.kind == "state_dict"
    assert all(torch.equal(found.model.state_dict()[k], v) for k, v in model.state_dict().items())
    assert [tuple(x.shape) for x in found.inputs] == [(2, 4)]


def test_float64_weights_stay_float64(tmp_path: Path, factory: str) -> None:
    torch.save(build().double().state_dict(), tmp_path / "w.pt")
    found = load(tmp_path / "w.pt", factory=factory, input_shapes=[(2, 4)])
    assert {p.dtype for p in found.model.parameters()} == {torch.float64}


def test_errors_of_the_factory(tmp_path: Path, factory: str) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pt")
    module = factory.partition(":")[0]
    for name, message in ((None, "--model"), (module, "expected package"), (f"{module}:absent", "imported"),
                          (f"{module}:text", "expected a torch.nn.Module")):  # fmt: skip
        with pytest.raises(LoadError, match=message):
            load(tmp_path / "w.pt", factory=name, input_shapes=[(2, 4)])
    with pytest.raises(LoadError, match="--input-shape"):
        load(tmp_path / "w.pt", factory=factory)


def test_weights_of_another_model(tmp_path: Path, factory: str) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="do not fit"):
        load(tmp_path / "w.pt", factory=factory, input_shapes=[(2, 4)])


def test_needless_options(checkpoint: Path, factory: str) -> None:
    with pytest.raises(LoadError, match="needs no --model"):
        load(checkpoint, factory=factory)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.zeros(3)])
def test_content_that_is_no_model(tmp_path: Path, factory: str, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(LoadError, match="expected a checkpoint"):
        load(tmp_path / "w.pt", factory=factory, input_shapes=[(2, 4)])


def test_an_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(build().eval(), (torch.randn(2, 4),)), path)
    found = load(path)
    assert found.kind == "exported program"
    assert found.program is not None
    for options in ({"factory": "a:b"}, {"input_shapes": [(2, 4)]}):
        with pytest.raises(LoadError, match="needs no"):
            load(path, **options)


def test_a_torchscript_archive(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)), path)
    with pytest.raises(LoadError, match="TorchScript"):
        load(path)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.pt"):
        with pytest.raises(LoadError, match="does not exist or is not a file"):
            load(path)


def test_replacing_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("before")

    def fail_while_writing() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_while_writing()
    assert target.read_text() == "before"
    with replacing(target) as temporary:
        temporary.write_text("after")
    assert target.read_text() == "after"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(OSError), replacing(tmp_path / "nowhere" / "file"):  # noqa: PT011 (any of them)
        pass


def test_a_checkpoint_is_not_fitted_before_its_coefficients_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit takes longer than reading it, and is overwritten; asked for, it is what a new module starts from."""
    asked = []
    known = modules.fit

    def watched(*arguments: Any) -> Any:
        asked.append(arguments)
        return known(*arguments)

    monkeypatch.setattr(modules, "fit", watched)
    model = copy.deepcopy(load(models.path("lenet_hp1")).model)
    assert not asked
    found, new = next(m for m in model.modules() if isinstance(m, HP1)), HP1()
    assert found.numerator.abs().max() > 0
    assert repr(found) == repr(new)
    assert found.fit == new.fit
    found.reset_parameters()
    assert torch.equal(found.numerator, new.numerator)
    assert not hasattr(found, "nothing")


@pytest.mark.parametrize("wrong", [{"init": "nothing"}, {"interval": (3.0, -3.0)}])
def test_wrong_arguments_are_told_without_a_fit(wrong: dict[str, Any]) -> None:
    with modules.unfitted(), pytest.raises(SpecError, match="expected"):
        HP1(**wrong)
