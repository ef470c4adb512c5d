"""``opau-inspect``: exit codes, what it prints, its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from opau_onnx.cli.inspect import app

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_checkpoint(tmp_path: Path) -> None:
    done = run(LENET, "--report", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{LENET.name} (checkpoint): 4 activations; PyTorch ")
    assert sum("hermite_e" in line for line in done.output.splitlines()) == 4
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "opau-inspect/1"
    first = report["activations"][0]
    assert (first["name"], first["basis"], first["degrees"], first["axis"]) == ("conv1_activation", "hermite_e", [5, 4], None)
    assert first["numerator"][0] < first["numerator"][1]


def test_no_activation_is_no_error() -> None:
    done = run(LENET.with_name("lenet_relu_fashion_mnist.pt"))
    assert done.exit_code == 0
    assert "0 activations" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.onnx",), "none.onnx does not exist"),
        (("none.onnx", "--allow-pickle"), "an .onnx file needs none of them"),
        (("none.pt",), "none.pt"),
        ((LENET, "--report", "none/r.json"), "No such file"),
    ],
)
def test_usage(arguments: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())
