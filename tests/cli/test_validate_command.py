"""``opau-export --validate-only``, --verbose, programs and pickles, and errors that nobody foresaw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from typer.testing import CliRunner

from opau_onnx import export_model
from opau_onnx.cli.export import app
from tests import attacks
from tests.export import nets

TORCHS_OWN = pytest.mark.filterwarnings("ignore")  # --verbose lets torch's warnings through, which are errors here


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program net.pt2, the same as a pickled module net.pt, and net.onnx."""
    folder = tmp_path_factory.mktemp("files")
    model = nets.tiny()
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (nets.example(2, 4),), dynamic_shapes=dynamic), folder / "net.pt2")
    torch.save(model, folder / "net.pt")
    assert export_model(folder / "net.pt2", folder / "net.onnx").equal
    return folder


def test_an_equal_file(files: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    done = run(files / "net.pt2", files / "net.onnx", "--validate-only", "--report", tmp_path / "r.json", "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "net.onnx compared" in done.output.replace("\n", "")
    assert "written" not in done.output
    assert {p.name: p.read_bytes() for p in files.iterdir()} == before
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["validation"]["verdict"] == "equal"
    assert report["file"] == "net.onnx"


def test_a_coefficient_off_by_one_percent(files: Path, tmp_path: Path) -> None:
    model = onnx.load(files / "net.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "1.numerator")
    values = numpy_helper.to_array(tensor).copy()
    values[2] *= np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "off.onnx")
    done = run(files / "net.pt2", tmp_path / "off.onnx", "--validate-only", "--report", tmp_path / "r.json")
    assert done.exit_code == 1
    assert "NOT EQUAL" in done.output
    assert "does not compute what the model does" in done.output.replace("\n", " ")
    assert json.loads((tmp_path / "r.json").read_text())["validation"]["verdict"] == "different"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["off.onnx", "r.json"]


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (b"no model", "not a readable ONNX file")])
def test_no_file_to_compare(files: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    done = run(files / "net.pt2", tmp_path / "m.onnx", "--validate-only")
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize("option", [["--dtype", "float16"], ["--static"], ["--dynamic-axes", "x:0=n"]])
def test_what_a_program_has_fixed(files: Path, tmp_path: Path, option: list[str]) -> None:
    done = run(files / "net.pt2", tmp_path / "m.onnx", *option)
    assert done.exit_code == 2
    assert "fixed when it was made" in done.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--model", "a:b"], ["--input-shape", "2,4"]])
def test_options_that_a_program_does_not_need(files: Path, tmp_path: Path, option: list[str]) -> None:
    done = run(files / "net.pt2", tmp_path / "m.onnx", *option)
    assert done.exit_code == 2
    assert f"needs no {option[0]}" in done.output


def test_a_pickled_module(files: Path, tmp_path: Path) -> None:
    refused = run(files / "net.pt", tmp_path / "m.onnx", "--input-shape", "2,4")
    assert refused.exit_code == 2
    assert "--allow-pickle" in refused.output
    assert not list(tmp_path.iterdir())
    done = run(files / "net.pt", tmp_path / "m.onnx", "--input-shape", "2,4", "--allow-pickle")
    assert done.exit_code == 0, done.output
    assert "pickled module" in done.output
    without_shape = run(files / "net.pt", tmp_path / "n.onnx", "--allow-pickle")
    assert without_shape.exit_code == 2
    assert "--input-shape" in without_shape.output


def test_a_pickle_under_every_name(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for kind, payload in attacks.PICKLES.items():
        for name in ("m.pt", "m.pth", "m.pt2", "m.safetensors", "m.onnx", "m"):
            (tmp_path / name).write_bytes(payload(marker))
            done = run(tmp_path / name, tmp_path / "out.onnx", "--model", "a:b", "--input-shape", "2,4")
            assert done.exit_code == 2, (kind, name)
            assert not marker.exists(), (kind, name)
            assert not (tmp_path / "out.onnx").exists()


@TORCHS_OWN
def test_verbose_names_the_steps_and_shows_every_comparison(files: Path) -> None:
    quiet = run(files / "net.pt2", files / "net.onnx", "--validate-only")
    loud = run(files / "net.pt2", files / "net.onnx", "--validate-only", "--verbose")
    assert loud.exit_code == 0
    assert "reading" in loud.output
    assert "comparing with PyTorch ..." in loud.output
    assert "comparing with PyTorch ..." not in quiet.output
    assert loud.output.count("random, scale") > quiet.output.count("random, scale") > 0


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_torchs_errors_come_without_its_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save(Noisy(), tmp_path / "m.pt")
    done = run(tmp_path / "m.pt", tmp_path / "m.onnx", "--input-shape", "2,4", "--allow-pickle")
    assert done.exit_code == 2
    assert done.output.startswith("error: torch.export cannot trace the model")
    assert "\x1b" not in done.output
    assert capfd.readouterr() == ("", "")


def test_an_error_nobody_foresaw_is_not_code_1(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code 1 would say that the file differs."""

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted\x1b[31m")

    monkeypatch.setattr("opau_onnx.export.api.validate", broken)
    done = run(files / "net.pt2", tmp_path / "m.onnx")
    assert done.exit_code == 2
    assert "ZeroDivisionError: planted" in done.output
    assert "\x1b" not in done.output
    assert not list(tmp_path.iterdir())
