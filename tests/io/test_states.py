"""The right state_dict in what people save: nested, prefixed, beside others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.export import app
from opau_onnx.errors import LoadError
from opau_onnx.nn import HP1, HP2, PAU

SHAPES = [(3, 4)]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), HP1(), nn.Linear(8, 2))


def other() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), HP2(), nn.Linear(8, 2))


def pau_b() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), PAU("B"), nn.Linear(8, 2))


def compiled() -> nn.Module:
    return torch.compile(small(), backend="eager")  # type: ignore[return-value]


def trained(by: float = 0.1) -> dict[str, Any]:
    model = small()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by)
    return model.state_dict()


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + k: v for k, v in state.items()}


def saved(content: Any, tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def load(path: Path, factory: str = "small", **options: Any) -> Any:
    return opau_onnx.load(path, factory=f"{__name__}:{factory}", input_shapes=SHAPES, **options)


def bias(source: Any) -> Tensor:
    found: Tensor = source.model.state_dict()["0.bias"]
    return found


STATE = trained()
LIGHTNING = {"epoch": 3, "state_dict": {**prefixed("model.", STATE), "loss.weight": torch.ones(2)}, "hyper_parameters": {}}
INSIDE = {"0.weight": "0._orig_mod.weight", "0.bias": "0._orig_mod.bias"}
CASES: list[tuple[Any, list[str]]] = [
    (STATE, []),
    (prefixed("module.", STATE), ["the prefix 'module.' was taken off"]),
    (prefixed("_orig_mod.", STATE), ["the parts _orig_mod of names was taken off"]),
    (prefixed("module._orig_mod.", STATE), ["the prefix 'module.' and the parts _orig_mod"]),
    ({INSIDE.get(k, k): v for k, v in STATE.items()}, ["the parts _orig_mod"]),
    (LIGHTNING, ["the weights under 'state_dict' were taken", "the prefix 'model.'", "left out: loss.weight"]),
    ({"model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 1.0}]}}, ["the weights under 'model' were taken"]),
    ({"ema": trained(9.0), "model": STATE}, ["under 'model' were taken; it also holds 'ema', which --key chooses"]),
    ({"ema": {"module": STATE, "decay": 0.9}}, ["the weights under 'ema.module' were taken"]),
    ({**prefixed("module.", STATE), "n_averaged": torch.tensor(3)}, ["left out: n_averaged"]),
]


@pytest.mark.parametrize(("content", "told"), CASES)
def test_the_right_state_is_found_and_told(content: Any, told: list[str], tmp_path: Path) -> None:
    source = load(saved(content, tmp_path))
    assert torch.equal(bias(source), STATE["0.bias"])
    text = "\n".join(source.notes)
    assert all(part in text for part in told), text
    assert bool(source.notes) == bool(told)
    assert torch.equal(bias(load(tmp_path / "w.pt", "compiled")), STATE["0.bias"])


def test_safetensors(tmp_path: Path) -> None:
    save_file(prefixed("model.", STATE), tmp_path / "w.safetensors")
    assert torch.equal(bias(load(tmp_path / "w.safetensors")), STATE["0.bias"])


def test_the_user_chooses(tmp_path: Path) -> None:
    path = saved({"model": STATE, "ema": prefixed("student.", trained(9.0)), "teacher": prefixed("teacher.", STATE)}, tmp_path)
    ema = trained(9.0)["0.bias"]
    assert torch.equal(bias(load(path, key="ema")), ema)
    chosen = load(path, key="ema", strip_prefix="student.")
    assert torch.equal(bias(chosen), ema)
    with pytest.raises(LoadError, match="no state_dict under the key 'average'; it has 'model', 'ema', 'teacher'"):
        load(path, key="average")
    with pytest.raises(LoadError, match=r"no name begins with 'net\.'"):
        load(path, key="ema", strip_prefix="net.")
    both = saved({**prefixed("student.", STATE), **prefixed("teacher.", trained(9.0))}, tmp_path)
    taken = load(both, strip_prefix="teacher.")
    assert torch.equal(bias(taken), ema)
    assert any("left out: student.0.weight" in note for note in taken.notes)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: prefixed("module.", s)])
@pytest.mark.parametrize(
    "change",
    [
        lambda s: {k: v for k, v in s.items() if k != "2.bias"},
        lambda s: {**s, "3.weight": torch.ones(1)},
        lambda s: {**s, "2.bias": torch.ones(5)},
    ],
)
def test_nothing_is_loaded_in_part(change: Any, wrap: Any, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="do not fit Sequential"):
        load(saved(wrap(change(STATE)), tmp_path))


@pytest.mark.parametrize("content", [{}, {"lr": 1.0}, [1, 2], {"a": {"b": {"c": {"d": STATE}}}}])
def test_files_without_a_state(content: Any, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="expected a checkpoint of this package, a state_dict"):
        load(saved(content, tmp_path))


@pytest.mark.parametrize(("factory", "said"), [("other", "are of hermite_e"), ("pau_b", "are of hermite_e")])
def test_coefficients_of_another_function(factory: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=said):
        load(saved(STATE, tmp_path), factory)


def test_a_state_that_does_not_say_its_function(tmp_path: Path) -> None:
    old = {k: v for k, v in STATE.items() if "_extra_state" not in k}
    source = load(saved(old, tmp_path))
    assert ["assumed is what the module computes: hermite_e, abs_terms" in note for note in source.notes] == [True]


def test_other_libraries_extra_states(tmp_path: Path) -> None:
    class Versioned(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"version": 1}

        def set_extra_state(self, state: Any) -> None:
            assert state == {"version": 1}

    global versioned
    versioned = lambda: nn.Sequential(Versioned(4, 8), HP1())  # noqa: E731
    content = versioned().state_dict()
    assert torch.equal(bias(load(saved(content, tmp_path), "versioned")), content["0.bias"])


versioned: Any = None


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    path = saved({"model": STATE, "ema": {k: v for k, v in STATE.items() if "_extra_state" not in k}}, tmp_path)
    common = [str(path), str(tmp_path / "m.onnx"), "--model", f"{__name__}:small", "--input-shape", "3,4"]
    done = CliRunner().invoke(app, [*common, "--key", "ema"])
    assert done.exit_code == 0, done.output
    assert "note: w.pt: the state_dict does not say which function" in done.stderr
    done = CliRunner().invoke(app, [*common, "--strip-prefix", "x."])
    assert done.exit_code == 2
    assert "--strip-prefix" in done.stderr
    done = CliRunner().invoke(app, [*common[:3], f"{__name__}:other", *common[4:]])
    assert done.exit_code == 2
    assert "are of hermite_e" in " ".join(done.stderr.split())


@pytest.mark.parametrize("text", ["raise RuntimeError('no')", "import nothing_there", "def build(:", "import sys; sys.exit(0)"])
def test_a_model_that_cannot_be_imported(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_net.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "broken_net", raising=False)
    options = ["--model", "broken_net:build", "--input-shape", "3,4"]
    done = CliRunner().invoke(app, [str(saved(STATE, tmp_path)), "m.onnx", *options])
    assert done.exit_code == 2, done.output
    assert "--model broken_net:build cannot be imported: " in done.stderr


def test_pickled_classes_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "pickled_net.py").write_text("from torch import nn\nclass Net(nn.Sequential):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import pickled_net  # type: ignore[import-not-found]

    torch.save(pickled_net.Net(nn.Linear(4, 8), HP1()), tmp_path / "w.pt")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pickled_net")
    source = opau_onnx.load(tmp_path / "w.pt", allow_pickle=True, input_shapes=SHAPES)
    assert source.kind == "pickled module"


class Tokens(nn.Module):
    """Takes token numbers and, where it is given, a mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.act, self.head = nn.Embedding(50, 8), HP1(), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.act(self.table(ids))
        y: Tensor = self.head(x if mask is None else x * mask[..., None]).mean(1)
        return y


def test_example_inputs_from_a_file(tmp_path: Path) -> None:
    path = saved(Tokens().state_dict(), tmp_path)
    ids, mask = np.arange(10, 22).reshape(3, 4), np.ones((3, 4), dtype=np.float32)
    np.savez(tmp_path / "in.npz", ids=ids, mask=mask)
    np.savez(tmp_path / "order.npz", ids)
    for name, count in (("in.npz", 2), ("order.npz", 1)):
        common = [str(path), str(tmp_path / "m.onnx"), "--model", f"{__name__}:Tokens"]
        done = CliRunner().invoke(app, [*common, "--inputs", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        source = opau_onnx.load(path, factory=f"{__name__}:Tokens", inputs=tmp_path / name)
        assert len(source.inputs) == count
        assert torch.equal(source.inputs[0], torch.from_numpy(ids))
    assert source.inputs[0].dtype == torch.int64
    np.savez(tmp_path / "wrong.npz", tokens=ids)
    np.savez(tmp_path / "objects.npz", ids=np.array([{}]))
    (tmp_path / "text.npz").write_text("no")
    for name, said in (
        ("wrong.npz", "the model takes ids, mask"),
        ("objects.npz", "cannot be read"),
        ("text.npz", "cannot be"),
    ):
        done = CliRunner().invoke(app, [*common, "--inputs", str(tmp_path / name)])
        assert done.exit_code == 2, done.output
        assert said in " ".join(done.stderr.split())
    done = CliRunner().invoke(app, [*common, "--inputs", str(tmp_path / "in.npz"), "--input-shape", "ids:int64:3,4"])
    assert done.exit_code == 2
    assert "exclude each other" in done.stderr


@pytest.mark.parametrize("text", ["ids:int64:3,4", "int64:3,4", "ids:int32:3x4"])
def test_dtypes_of_input_shapes(text: str, tmp_path: Path) -> None:
    path = saved(Tokens().state_dict(), tmp_path)
    common = [str(path), str(tmp_path / "m.onnx"), "--model", f"{__name__}:Tokens"]
    done = CliRunner().invoke(app, [*common, "--input-shape", text])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, [*common, "--input-shape", "ids:int63:3,4"])
    assert done.exit_code == 2
    assert "--input-shape names 'ids:int63'; the model takes ids" in " ".join(done.stderr.split())
