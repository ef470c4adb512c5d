"""``opau-export``: exit codes, messages, what is written and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from opau_onnx.cli.export import app
from opau_onnx.nn import HP1

FACTORY = """
import torch
from opau_onnx.nn import HP1

def build():
    return torch.nn.Sequential(torch.nn.Linear(4, 5), HP1(), torch.nn.Linear(5, 3))

def broken():
    raise ValueError("out of order")
"""


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state_dict beside the module that builds its model; the folder is the current one."""
    torch.manual_seed(0)
    name = f"nets_{tmp_path.name}"  # a module of its own for each test: imports are kept
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"{name}.pt"
    torch.save(nn.Sequential(nn.Linear(4, 5), HP1(), nn.Linear(5, 3)).state_dict(), path)
    (tmp_path / "out").mkdir()
    return path


def options(weights: Path) -> list[str]:
    return ["--model", f"{weights.stem}:build", "--input-shape", "2,4"]


def written(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "out").iterdir())


def test_exports_and_reports(weights: Path, tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.json"
    done = run(weights, "out/net.onnx", *options(weights), "--report", report)
    assert done.exit_code == 0, done.output
    assert "equal: out/net.onnx written" in done.output
    assert "1/OrthogonalPade" in done.output
    found = json.loads(report.read_text())
    assert found["schema"] == "opau_onnx.export_report/1"
    assert found["validation"]["verdict"] == "equal"
    assert found["source"]["kind"] == "state_dict"
    assert [a["module"] for a in found["activations"]] == ["1"]
    assert written(tmp_path) == ["net.onnx", "report.json"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 4]


def test_safetensors_give_the_same_graph(weights: Path, tmp_path: Path) -> None:
    tensors = torch.load(weights, weights_only=True)
    save_file(tensors, tmp_path / "net.safetensors")
    assert run(weights, "out/a.onnx", *options(weights), "--no-validate").exit_code == 0
    assert run("net.safetensors", "out/b.onnx", *options(weights), "--no-validate").exit_code == 0
    a, b = (onnx.load(tmp_path / "out" / f"{n}.onnx") for n in "ab")
    assert a.graph == b.graph
    assert list(a.functions) == list(b.functions)


def test_piped_output_is_plain_text(weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from opau_onnx.cli.export import main; main()", weights, "out/net.onnx"]
    done = subprocess.run([*command, *options(weights)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert not set("│┃━─┏└") & set(done.stdout + done.stderr)
    assert done.stderr == ""


def test_not_equal_is_code_1_and_keeps_the_file_apart(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "net.onnx"
    output.write_bytes(b"what was there before")
    done = run(weights, output, *options(weights), "--atol", "0", "--rtol", "0")
    assert done.exit_code == 1
    assert "NOT EQUAL" in done.output
    assert "net.rejected.onnx" in done.output
    assert output.read_bytes() == b"what was there before"
    assert written(tmp_path) == ["net.onnx", "net.rejected.onnx"]
    onnx.checker.check_model(str(tmp_path / "out" / "net.rejected.onnx"))


def test_no_validate_says_so(weights: Path) -> None:
    done = run(weights, "out/net.onnx", *options(weights), "--no-validate")
    assert done.exit_code == 0
    assert "not compared" in done.output


def test_external_data(weights: Path, tmp_path: Path) -> None:
    done = run(weights, "out/net.onnx", *options(weights), "--external-data")
    assert done.exit_code == 0, done.output
    assert "net.onnx" in written(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "float8"], "float8"),
        (["--opset", "17"], "18 to"),
        (["--opset", "99"], "18 to"),
        (["--dynamic-axes", "input"], "INPUT:AXIS=NAME"),
        (["--dynamic-axes", "nothing:0=n"], "nothing"),
        (["--dynamic-axes", "input:7=n"], "axes 0 to 1"),
        (["--static", "--dynamic-axes", "input:0=n"], "exclude each other"),
        (["--validate-only", "--no-validate"], "exclude each other"),
        (["--report", "nowhere/report.json"], "report.json"),
        (["--atol", "-1"], "--atol"),
        (["--samples", "0"], "--samples"),
    ],
)
def test_usage_errors(weights: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(weights, "out/net.onnx", *options(weights), *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model package.module:factory"),
        (["--model", "{0}:build"], "--input-shape"),
        (["--model", "{0}"], "expected package.module:factory"),
        (["--model", "{0}:absent"], "cannot be imported"),
        (["--model", "no_such_module:f"], "cannot be imported"),
        (["--model", "{0}:broken", "--input-shape", "2,4"], "out of order"),
        (["--model", "{0}:build", "--input-shape", "2,x"], "whole numbers"),
        (["--model", "{0}:build", "--input-shape", "2,9"], "error"),
    ],
)
def test_load_errors(weights: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(weights, "out/net.onnx", *(a.format(weights.stem) for a in arguments))
    assert done.exit_code == 2
    assert message in done.output
    assert written(tmp_path) == []


def test_the_output_must_be_onnx_in_a_folder_that_exists(weights: Path, tmp_path: Path) -> None:
    assert "ends in .onnx" in run(weights, "out/net.bin", *options(weights)).output
    done = run(weights, "nowhere/net.onnx", *options(weights))
    assert done.exit_code == 2
    assert written(tmp_path) == []


def test_help_and_version() -> None:
    done = run("--help")
    assert done.exit_code == 0
    for option in (
        "opset", "dtype", "input-shape", "dynamic-axes", "static", "external-data", "report", "no-validate", "atol", "rtol",
        "samples", "seed", "verbose", "allow-pickle", "model",
    ):  # fmt: skip
        assert f"--{option}" in done.output
    assert run("--version").output.startswith("opau-export ")
