"""What a newcomer is promised: the shipped models export, run in plain onnxruntime and agree on real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from opau_onnx.cli.export import app
from opau_onnx.core.spec import DOMAIN, OP_TYPE
from opau_onnx.io import datasets
from opau_onnx.io.source import load

MODELS = Path(__file__).resolve().parent.parent / "models"
HP1 = MODELS / "lenet_hp1_fashion_mnist.pt"


def export(checkpoint: Path, output: Path, *options: str) -> int:
    return CliRunner().invoke(app, [str(checkpoint), str(output), *options]).exit_code


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "lenet.onnx"
    assert export(HP1, path) == 0
    return path


def test_the_file_has_our_nodes_and_functions(exported: Path) -> None:
    model = onnx.load(exported)
    nodes = [n for n in model.graph.node if (n.domain, n.op_type) == (DOMAIN, OP_TYPE)]
    assert len(nodes) == 4
    assert {f.overload for f in model.functions} == {n.overload for n in nodes} == {"hermite_e_abs_terms_5_4"}
    assert {t.name for t in model.graph.initializer} >= {f"{n.name.partition('/')[0]}.numerator" for n in nodes}


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_agrees_on_real_images(exported: Path, batch: int) -> None:
    pixels, labels = datasets.load_sample()
    images = datasets.preprocess(pixels)[: 100 if batch == 1 else None]
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    theirs = np.concatenate([session.run(None, {name: images[i : i + batch]})[0] for i in range(0, len(images), batch)])
    with torch.no_grad():
        ours = load(HP1).model(torch.from_numpy(images)).numpy()
    print(f"largest difference {np.abs(theirs - ours).max():.2g}")
    assert np.abs(theirs - ours).max() <= 1e-5
    assert np.array_equal(theirs.argmax(1), ours.argmax(1))
    assert (theirs.argmax(1) == labels[: len(theirs)]).mean() > 0.85


@pytest.mark.parametrize("name", ["conv1_activation.numerator", "conv2_activation.denominator", "fc2_activation.numerator"])
@pytest.mark.parametrize("index", [0, 1, -1])
def test_one_percent_of_one_coefficient_is_found(exported: Path, tmp_path: Path, name: str, index: int) -> None:
    model = onnx.load(exported)
    stored = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(stored).copy()
    values[index] *= 1.01
    stored.CopyFrom(numpy_helper.from_array(values, name))
    changed = tmp_path / "changed.onnx"
    onnx.save(model, changed)
    before = changed.read_bytes()
    assert export(HP1, changed, "--validate-only") == 1
    assert changed.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["changed.onnx"]


def test_the_unchanged_file_is_equal(exported: Path) -> None:
    assert export(HP1, exported, "--validate-only") == 0
