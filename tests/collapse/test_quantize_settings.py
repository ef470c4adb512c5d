"""How a model is quantized: which samples calibrate, what a processor makes of 8 bits, which settings are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console

import opau_onnx
from opau_onnx import QuantizationConfig, ValidationConfig, collapse_model
from opau_onnx.cli import lut_output
from opau_onnx.collapse import quantize, summary
from opau_onnx.errors import CollapseError
from opau_onnx.io import datasets
from opau_onnx.io.samples import Samples, read_samples
from tests.collapse.test_quantize import EIGHT, LENET, drift


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "lenet.onnx"
    return opau_onnx.export_model(opau_onnx.load(LENET), path, validate=False).path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "few.npz"
    np.savez(path, images=datasets.preprocess(datasets.load_sample()[0][:40]))
    return path


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "SECONDS", 0.0)


def test_no_shipped_image_calibrates_and_counts(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data set is not installed."""
    monkeypatch.setattr(datasets, "find_fashion_mnist", lambda: None)
    kept: dict[str, Any] = {}
    reader = quantize._Reader

    def watched(model: ir.Model, samples: Samples) -> Any:
        kept["rows"] = samples.inputs[0]
        return reader(model, samples)

    monkeypatch.setattr(quantize, "_Reader", watched)
    result = collapse_model(lenet, tmp_path / "out.onnx", "lut", data="fashion-mnist", quantizing=EIGHT)
    assert result.equal
    assert result.quantized is not None
    assert result.quantized.samples == len(kept["rows"]) == 125
    assert drift(result).rows == 875
    assert drift(result).data.endswith("without the first 125, which calibrated")
    every = read_samples("fashion-mnist", ["images"])
    tested = {row.tobytes() for row in every.held_out(125).inputs[0]}
    assert len(tested) == 875
    assert not tested & {row.tobytes() for row in kept["rows"]}


@pytest.mark.parametrize(("saturates", "how", "told"), [
    (True, QuantizationConfig(), True), (False, QuantizationConfig(), False), (True, QuantizationConfig("int8"), False),
    (True, QuantizationConfig(reduce_range=True), False),
], ids=str)  # fmt: skip
def test_a_processor_that_saturates_is_told_of(
    saturates: bool, how: QuantizationConfig, told: bool, lenet: Path, few: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(quantize, "saturates_8_bit", lambda: saturates)
    comparing = ValidationConfig(skip=True)
    result = collapse_model(lenet, tmp_path / "out.onnx", "lut", data=few, quantizing=how, comparing=comparing)
    assert result.as_dict()["quantization"]["saturates"] is told
    lut_output.show(Console(width=300), result)
    assert ("this processor has no VNNI" in capsys.readouterr().out) is told


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"form": "standard", "quantizing": QuantizationConfig()}, "quantized for --form lut only"),
        ({"quantizing": QuantizationConfig(), "data": None}, "give --data"),
        ({}, "no DequantizeLinear before it"),
        ({"quantizing": QuantizationConfig("int16")}, "opset 20; 16-bit quantization needs 21"),
        ({"quantizing": QuantizationConfig(weights="int16")}, "opset 20; 16-bit quantization needs 21"),
        (
            {"quantizing": QuantizationConfig(), "comparing": ValidationConfig(min_agreement=1.5)},
            "expected a share from 0 to 1",
        ),
    ],
)
def test_what_is_refused(how: dict[str, Any], message: str, lenet: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match=message):
        collapse_model(lenet, tmp_path / "out.onnx", **{"form": "lut", "data": few, **how})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [{"activations": "int4"}, {"weights": "uint8"}, {"calibration": "mean"}])
def test_settings(how: dict[str, str]) -> None:
    (name,) = how
    with pytest.raises(CollapseError, match=f"{name} is '{how[name]}'; expected one of "):
        QuantizationConfig(**how)
