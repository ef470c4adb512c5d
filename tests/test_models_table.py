"""scripts/models_table.py as a user runs it, on the smallest network; what it says of faults."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from opau_onnx.errors import CollapseError, LoadError
from opau_onnx.io import datasets
from tests.custom_ops.library import required_library

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "models" / "lenet_hp1_fashion_mnist.pt"
STEPS = ["exported", "standard", "within", "fused", "lut", "batch 1", "batch 32", "certified"]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "scripts" / "models_table.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_whole_of_it(tmp_path: Path) -> None:
    required_library()
    images, labels = datasets.load_sample()
    np.savez(tmp_path / "data.npz", images=datasets.preprocess(images[::4]), labels=labels[::4])
    done = run(
        "--model", "lenet", "--checkpoint", str(CHECKPOINT), "--data", str(tmp_path / "data.npz"), "--samples", "64",
        "--complete", "0", "--rounds", "1", "--batch", "2", "--output-dir", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "models.json").read_text())
    assert [(m["name"], m["weights"]) for m in report["models"]] == [
        ("lenet hp1", CHECKPOINT.name), ("lenet hp2", "random, seed 0")
    ]  # fmt: skip
    for model in report["models"]:
        found = model["found"]
        assert list(found) == STEPS
        assert all(part["equal"] for part in found.values())
        assert found["exported"]["activations"] == found["certified"]["functions"] == 4  # four places, four functions
        assert found["certified"]["complete"] == 0
        assert "4 of 4 tables" in found["lut"]["told"]
        for batch, samples in ((1, 4), (32, 32)):
            runs = {(r["file"], r["runtime"]) for r in found[f"batch {batch}"]["runs"]}
            assert runs == {(f, "ort-function") for f in ("learned", "standard", "fused")} | {
                (f, "ort-kernel") for f in ("learned", "fused")
            }
            assert {r["samples"] for r in found[f"batch {batch}"]["runs"]} == {samples}
        times = report["times"][model["name"]]
        assert list(times) == ["ReLU", "learned", "fused", "fused, outside the layout"]
        assert all(t["median_s"] > 0 and t["ratio"] > 0 for t in times.values())
    text = (tmp_path / "models.md").read_text()
    assert f"| lenet hp1 | {CHECKPOINT.name} | equal, " in text
    assert "## Time of the whole model, batch 2" in text


@pytest.mark.parametrize(("options", "message"), [
    (("--model", "alexnet"), "unknown architecture 'alexnet'"),
    (("--activation", "hp3"), "unknown activation 'hp3'"),
    (("--checkpoint", "nowhere.pt"), "nowhere.pt"),
    (("--output-dir", "nowhere"), "--output-dir nowhere is no folder"),
])  # fmt: skip
def test_usage_errors(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run("--model", "lenet", "--output-dir", str(tmp_path), *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("models_table")


def failing(error: Exception) -> Any:
    def step() -> Any:
        raise error

    return step


def test_faults_are_told_and_counted(script: ModuleType) -> None:
    fine = {"equal": True, "told": "31 operators"}
    unfit, broken = (script.attempted(failing(kind("no way"))) for kind in (CollapseError, LoadError))
    assert script.cell("fused", fine) == "equal: 31 operators"
    assert script.cell("lut", unfit) == "not possible: no way"
    assert script.cell("batch 1", broken) == "**different**: no way"
    assert script.cell("batch 1", {"equal": False, "tolerance_used": 3.0}) == "**different**, 3.00 of the tolerance"
    lost = {"equal": False, "functions": 4, "complete": 1, "ulp": 99.0}
    assert script.cell("certified", lost) == "**failed**, 4 functions, 1 on all inputs, 99.0 ULP"

    def verdict(**found: Any) -> bool:
        model = script.Model("lenet", "hp1", "random", True, None, None, None, found=found)
        return bool(script.right(model))

    assert verdict(fused=fine, lut=unfit)  # not every quantized model has codes around its activations
    assert not verdict(fused=unfit)
    assert not verdict(fused=fine, lut=broken)
