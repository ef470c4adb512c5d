"""An ONNX file in the place of the PyTorch model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.verify import app
from opau_onnx.errors import ValidationError
from opau_onnx.nn import HP1

RUN = {"runtimes": ["ort-function"]}
EXAMPLE = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), HP1(), nn.Linear(16, 3)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """before.onnx, its standard form, a float16 file of the model, and one with a weight that is a percent off."""
    found = tmp_path_factory.mktemp("onnx_model")
    assert opau_onnx.export_model(network(), found / "before.onnx", EXAMPLE).equal
    assert opau_onnx.export_model(network(), found / "half.onnx", EXAMPLE, dtype="float16").equal
    opau_onnx.collapse_model(found / "before.onnx", found / "standard.onnx")
    proto = onnx.load(found / "before.onnx")
    weight = next(t for t in proto.graph.initializer if t.name == "2.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, found / "off.onnx")
    return found


@pytest.mark.parametrize("name", ["standard", "half"])
def test_the_same_model_in_another_form_or_dtype_is_equal(folder: Path, name: str) -> None:
    result = opau_onnx.verify_model(folder / "before.onnx", folder / f"{name}.onnx", **RUN)
    assert result.equal, result.findings
    (run,) = result.files[0].file.runs
    assert run.outputs[0].absolute.count > 100
    assert result.as_dict()["reference"]["name"] == "before.onnx"
    assert result.as_dict()["model"]["kind"] == "ONNX file"


def test_a_finer_file_is_held_to_the_roundings_of_the_coarser_one(folder: Path) -> None:
    assert opau_onnx.verify_model(folder / "half.onnx", folder / "before.onnx", **RUN).equal


def test_one_weight_is_found(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = opau_onnx.verify_model(folder / "before.onnx", folder / "off.onnx", html=page, **RUN)
    assert not result.equal
    (finding,) = result.findings
    assert "before.onnx gives" in finding.text
    assert "off.onnx does not give what before.onnx gives." in page.read_text()
    assert "PyTorch" not in page.read_text().split("<footer")[0]
    assert "activations and weights were not compared one by one" in page.read_text()
    assert "learned activations" not in page.read_text()


def test_labels_are_counted(folder: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "before.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    labels = session.run(None, {name: rows})[0].argmax(axis=1)
    np.savez(tmp_path / "data.npz", **{name: rows}, labels=labels)
    result = opau_onnx.verify_model(folder / "before.onnx", folder / "standard.onnx", data=tmp_path / "data.npz", **RUN)
    assert result.equal
    assert result.files[0].reference.labels.right == 50
    assert result.files[0].file.runs[0].labels.agreement == 1.0


def test_the_command(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    files = [str(folder / name) for name in ("before.onnx", "standard.onnx", "off.onnx")]
    done = CliRunner().invoke(app, [*files, "--runtimes", "ort-function", "--report", str(report)])
    assert done.exit_code == 1, done.output
    assert "NOT EQUAL: " in done.output
    assert "before.onnx (ONNX file) on" in done.output
    assert [f["verdict"] for f in json.loads(report.read_text())["files"]] == ["equal", "different"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--model", "a.b:c"], "--model says how weights of PyTorch are read"), (["--layerwise"], "leave out layerwise")],
)
def test_what_needs_a_pytorch_model_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, [str(folder / "before.onnx"), str(folder / "standard.onnx"), *arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_another_models_file_is_refused(folder: Path, tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    opau_onnx.export_model(Two().eval(), tmp_path / "two.onnx", (EXAMPLE, EXAMPLE))
    with pytest.raises(ValidationError, match=r"has 2 inputs .* has 1; is it of this model"):
        opau_onnx.verify_model(folder / "before.onnx", tmp_path / "two.onnx", **RUN)
    with pytest.raises(ValidationError, match=r"has 1 inputs \(.*\); 2 are given"):
        opau_onnx.verify_model(folder / "before.onnx", folder / "off.onnx", (EXAMPLE, EXAMPLE), **RUN)
