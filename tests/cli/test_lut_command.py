"""``opau-collapse --form lut`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from opau_onnx.core.spec import Config
from tests.cli.test_collapse_command import LENET, export, run
from tests.collapse.quantized_models import qdq
from tests.export import single

CASE = single.Case(Config())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A float model: one activation; and data for it."""
    path = tmp_path / "m.onnx"
    path.write_bytes(single.model(CASE, ["N", 3], single.coefficients(CASE)).SerializeToString())
    x = np.random.default_rng(0).uniform(-3, 3, (200, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=np.zeros(200, np.int64))
    return path


def names(model: Path) -> list[str]:
    return sorted(p.name for p in model.parent.iterdir())


def test_quantizes_and_collapses(model: Path) -> None:
    done = run(
        model, model.with_name("out.onnx"), "--form", "lut", "--quantize", "--data", model.with_name("data.npz"),
        "--activations", "int8", "--calibration", "minmax", "--calibration-samples", 100, "--min-agreement", 0.9,
        "--report", model.with_name("r.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in (
        "table of 256, int8 to float32", "before  quantized  after", "int8 activations, int8 weights by channel",
        "minmax calibration on 100 samples of", "y against m.onnx, float: the class differs for",
        "at least 90.00% wanted: equal", "right: float", "operators as written",
    ):  # fmt: skip
        assert text in done.stdout, done.stdout
    assert done.stdout.rstrip().endswith("written")
    assert json.loads(model.with_name("r.json").read_text())["quantization"]["activations"] == "int8"
    assert names(model) == ["data.npz", "m.onnx", "out.onnx", "r.json"]


def test_not_equal(model: Path) -> None:
    done = run(
        model, model.with_name("out.onnx"), "--form", "lut", "--quantize", "--data", model.with_name("data.npz"),
        "--min-agreement", 1,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "at least 100.00% wanted: DIFFERENT" in done.stdout
    assert "NOT EQUAL" in done.stdout
    assert names(model) == ["data.npz", "m.onnx", "out.rejected.onnx"]


def test_a_quantized_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(qdq("uint16", "uint8", ("N", 3), domain="com.microsoft", case=CASE, before_scale=2e-4), path)
    done = run(path, path.with_name("out.onnx"), "--form", "lut", "--no-validate")
    assert done.returncode == 0, done.stderr
    assert "table of 65536, uint16 to uint8" in done.stdout
    assert "not compared" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--form", "lut"], "no DequantizeLinear before it"),
        (["--form", "lut", "--quantize"], "give --data"),
        (["--quantize", "--data", "data.npz"], "quantized for --form lut only"),
        (["--form", "lut", "--quantize", "--data", "missing.npz"], "no samples at"),
        (["--form", "lut", "--activations", "int8"], "--activations needs --quantize"),
        (["--form", "lut", "--reduce-range"], "--reduce-range needs --quantize"),
        (["--form", "lut", "--quantize", "--data", "data.npz", "--weights", "int4"], "weights is 'int4'; expected one of"),
        (["--form", "lut", "--quantize", "--data", "data.npz", "--activations", "uint16"], "16-bit quantization needs 21"),
        (["--form", "lut", "--quantize", "--data", "data.npz", "--tolerance", "1e-3"], "takes no tolerance"),
        (["--min-agreement", "0.9"], "--min-agreement is for --form lut"),
    ],
)
def test_usage(model: Path, arguments: list[str], message: str) -> None:
    given = [str(model.with_name(a)) if a == "data.npz" else a for a in arguments]
    done = run(model, model.with_name("out.onnx"), *given)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert names(model) == ["data.npz", "m.onnx"]


def test_export_says_what_to_do(tmp_path: Path) -> None:
    done = export(LENET, tmp_path / "out.onnx", "--collapse", "lut")
    assert done.returncode == 2
    assert "export first, then opau-collapse FILE.onnx OUTPUT.onnx --form lut --quantize --data SAMPLES" in done.stderr
    assert not list(tmp_path.iterdir())
