"""``opau-plot``: exit codes, what it prints, what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.plot import app

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"
RELU = LENET.with_name("lenet_relu_fashion_mnist.pt")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(LENET, "--layers", "fc1*")
    assert done.exit_code == 0, done.output
    name = "lenet_hp1_fashion_mnist.activations.png"
    assert done.output.strip() == f"1 learned activation drawn: {name}; inputs: the example input (2 rows)"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_with_data(tmp_path: Path) -> None:
    model = tmp_path / "lenet.onnx"
    opau_onnx.export_model(LENET, model, validate=False)
    picture = tmp_path / "sheet.svg"
    done = run(model, picture, "--data", "fashion-mnist", "--samples", 20, "--layers", "*conv1*")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "note: the start is not known: an ONNX file holds what was learned only"
    assert lines[1].startswith(f"1 learned activation drawn: {picture}; inputs: 20 samples of Fashion-MNIST")
    assert "% of inputs" in picture.read_text()
    done = run(model, picture, "--layers", "*conv1*")
    assert "give --data" in done.output
    assert "% of inputs" not in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((RELU, "x.png"), "holds no learned activation"),
        ((LENET, "x.pdf"), "neither a .png nor an .svg"),
        ((LENET, "x.png", "--data", "nowhere.npz"), "there are no samples at nowhere.npz"),
        (("none.onnx", "x.png", "--allow-pickle"), "an .onnx file needs none of them"),
        (("none.onnx", "x.png"), "none.onnx does not exist"),
        ((LENET, "x.png", "--input-shape", "a"), "--input-shape is 'a'"),
        ((LENET, "none/x.png"), "the folder none does not exist"),
    ],
)
def test_usage(arguments: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())
