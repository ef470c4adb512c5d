"""Two packages of onnxruntime side by side, and what one leaves of the other: real environments of a few files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.inspect import app
from opau_onnx.errors import DeviceError
from opau_onnx.runtime import installation


def environment(folder: Path, packages: Sequence[str], whole: bool | None) -> None:
    """What pip leaves in a site-packages folder."""
    for name in packages:
        info = folder / f"{name.replace('-', '_')}-1.31.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    if whole is not None:
        (folder / "onnxruntime").mkdir()
    if whole:
        (folder / "onnxruntime" / "__init__.py").write_text("")


def found(folder: Path) -> str:
    """problem() in a Python that sees nothing but the folder and this package."""
    root = Path(opau_onnx.__file__).resolve().parents[1]
    paths = [str(folder), str(root)]
    code = f"import sys; sys.path[:0] = {paths}; from opau_onnx.runtime import installation as i; print(i.problem())"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_one_whole_package_is_no_problem(tmp_path: Path) -> None:
    environment(tmp_path, ["onnxruntime-gpu"], whole=True)
    assert found(tmp_path) == "None"


def test_a_build_without_a_package_is_no_problem(tmp_path: Path) -> None:
    environment(tmp_path, [], whole=True)
    assert found(tmp_path) == "None"


def test_none_at_all_is_told(tmp_path: Path) -> None:
    environment(tmp_path, [], whole=None)
    assert found(tmp_path).endswith("pip install 'opau-onnx[cpu]', or 'opau-onnx[gpu]' to run on CUDA")


def test_two_packages_are_told(tmp_path: Path) -> None:
    environment(tmp_path, ["onnxruntime-gpu", "onnxruntime"], whole=True)
    said = found(tmp_path)
    assert said.startswith("onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 are both installed")
    assert said.endswith("pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu")


def test_the_rest_of_a_removed_one_is_told(tmp_path: Path) -> None:
    environment(tmp_path, ["onnxruntime"], whole=False)
    said = found(tmp_path)
    assert said.startswith("pip lists onnxruntime, but its files are gone")
    assert said.endswith("pip uninstall -y onnxruntime; pip install onnxruntime")


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(installation, "packages", lambda: {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"})
    installation.check.cache_clear()
    yield
    installation.check.cache_clear()


LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"


def test_a_session_says_it_once(both: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opau_onnx.export_model(LENET, tmp_path / "n.onnx", validate=False)
    installation.check.cache_clear()
    caplog.clear()
    for _ in range(2):
        opau_onnx.create_session(tmp_path / "n.onnx", "cpu")
    assert sum("are both installed" in r.message for r in caplog.records) == 1


def test_where_nothing_can_run_it_is_an_error(both: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_whole", lambda: False)
    with pytest.raises(DeviceError, match="are both installed"):
        opau_onnx.create_session(tmp_path / "n.onnx", "cpu")


def test_a_command_says_it_in_place_of_a_failed_import(both: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: object) -> None:
        raise AttributeError("module 'onnxruntime' has no attribute 'InferenceSession'")

    monkeypatch.setattr("opau_onnx.inspect.api.inspect_model", broken)
    done = CliRunner().invoke(app, ["net.onnx"])
    assert done.exit_code == 2
    assert "are both installed" in done.output
