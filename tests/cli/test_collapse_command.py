"""``opau-collapse`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opau_onnx.core.spec import Config
from tests.export import single

COMMAND = [sys.executable, "-c", "from opau_onnx.cli.collapse import main; main()"]
CASE = single.Case(Config())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(single.model(CASE, ["N", 3], single.coefficients(CASE)).SerializeToString())
    return path


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_collapses_and_reports(model: Path) -> None:
    done = run(model, model.with_name("out.onnx"), "--report", model.with_name("r.json"))
    assert done.returncode == 0, done.stderr
    assert "P by monomials, Q by closed" in done.stdout
    assert "nodes, bodies inlined" in done.stdout
    assert done.stdout.rstrip().endswith("written")
    assert model.with_name("r.json").exists()


def test_not_equal(model: Path) -> None:
    done = run(model, model.with_name("out.onnx"), "--atol", "1e-12")
    assert done.returncode == 1
    assert "NOT EQUAL" in done.stdout
    assert not model.with_name("out.onnx").exists()
    assert model.with_name("out.rejected.onnx").exists()


def test_not_compared(model: Path) -> None:
    done = run(model, model.with_name("out.onnx"), "--no-validate")
    assert done.returncode == 0
    assert "not compared" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--form", "wide"], "the form is 'wide'"),
        (["--input-shape", "3,x"], "expected [NAME:][DTYPE:]SIZES"),
        (["--reference", "missing.pt"], "missing.pt"),
    ],
)
def test_usage(model: Path, arguments: list[str], message: str) -> None:
    done = run(model, model.with_name("out.onnx"), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert [p.name for p in model.parent.iterdir()] == ["m.onnx"]


def test_help_is_quick_to_import() -> None:
    heavy = "import sys, opau_onnx.cli.collapse; sys.exit(bool({'torch', 'onnxruntime', 'onnx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"
EXPORT = [sys.executable, "-c", "from opau_onnx.cli.export import main; main()"]


def export(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EXPORT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_exported_and_collapsed_in_one_go(tmp_path: Path) -> None:
    done = export(LENET, tmp_path / "out.onnx", "--collapse", "standard")
    assert done.returncode == 0, done.stderr
    assert "P by monomials, Q by closed" in done.stdout
    assert "PyTorch" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_exported_but_not_equal(tmp_path: Path) -> None:
    done = export(LENET, tmp_path / "out.onnx", "--collapse", "standard", "--atol", "1e-12")
    assert done.returncode == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.rejected.onnx"]


def test_export_usage(tmp_path: Path) -> None:
    assert "expected one of fused, lut, standard" in export(LENET, tmp_path / "out.onnx", "--collapse", "wide").stderr
    assert "exclude each other" in export(LENET, tmp_path / "out.onnx", "--collapse", "standard", "--validate-only").stderr
    assert not list(tmp_path.iterdir())
