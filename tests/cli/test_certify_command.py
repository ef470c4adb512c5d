"""``opau-certify`` as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from opau_onnx.core.spec import Config
from tests.custom_ops.library import required_library
from tests.export import single

COMMAND = [sys.executable, "-c", "from opau_onnx.cli.certify import main; main()"]
CASE = single.Case(Config())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(single.model(CASE, ["N"], single.coefficients(CASE)).SerializeToString())
    return path


def run(*arguments: Any, **keywords: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **keywords)


def test_sixteen_bits_are_certified(model: Path) -> None:
    required_library()
    done = run(model, "--dtypes", "float16,bfloat16")
    assert done.returncode == 0, done.stderr
    assert "certified;" in done.stdout
    content = json.loads(model.with_name("m.certificate.json").read_text())
    assert content["certificate"]
    assert content["passed"]
    assert content["instruction_sets"][0] == "scalar"
    (entry,) = content["activations"]
    assert [s["inputs"] for s in entry["sweeps"]] == [65536, 65536]
    assert entry["degrees"] == [5, 4]
    assert {v["name"] for v in entry["sweeps"][0]["variants"]} > {"streaming stores", "lanes", "tiles"}
    assert "float32: not asked for" in content["not_covered"]
    assert any("float64" in line for line in content["not_covered"])
    assert len(content["model"]["sha256"]) == len(content["library"]["sha256"]) == 64


def test_a_sample_is_no_certificate(model: Path) -> None:
    required_library()
    done = run(model, "--quick")
    assert done.returncode == 0, done.stderr
    assert "nothing wrong was found: this is no certificate" in done.stdout
    assert [p.name for p in model.parent.iterdir()] == ["m.onnx"], "and no file that could be taken for one"
    done = run(model, "--quick", "--report", model.with_name("c.json"))
    content = json.loads(model.with_name("c.json").read_text())
    assert "float32 inputs outside the sample" in content["not_covered"]
    portable = any(line.startswith("float32 in the portable code") for line in content["not_covered"])
    assert portable is ("scalar_fma" in content["instruction_sets"])
    assert not content["certificate"]


def test_a_bar_that_is_missed(model: Path) -> None:
    required_library()
    done = run(model, "--quick", "--dtypes", "float32", "--max-ulp", "0.5", "--report", model.with_name("m.certificate.json"))
    assert done.returncode == 1
    assert "not certified: float32:" in done.stdout
    assert not json.loads(model.with_name("m.certificate.json").read_text())["passed"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="waits until the process has loaded the library: Linux")
def test_interrupting_leaves_nothing(model: Path) -> None:
    library = required_library()._name
    command = [*COMMAND, str(model), "--dtypes", "float32", "--threads", "1"]
    # A shell that runs the tests in its background has them ignore SIGINT, which children inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and library not in maps.read_text():  # before that it is Python that is interrupted
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "interrupted; nothing was certified" in errors
    assert [p.name for p in model.parent.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.onnx"], "missing.onnx does not exist; expected an .onnx file"),
        (["junk.onnx"], "is not an ONNX model"),
        (["m.onnx", "--dtypes", "float64"], "--dtypes has 'float64'; expected some of float32, float16, bfloat16"),
        (["inputs.onnx"], "are not stored in"),
        (["m.onnx", "--quick", "--report", "nowhere/c.json"], "nowhere/c.json"),
    ],
)
def test_errors(model: Path, arguments: list[str], message: str) -> None:
    required_library()
    model.with_name("junk.onnx").write_bytes(b"junk")
    model.with_name("inputs.onnx").write_bytes(single.model(CASE, ["N"]).SerializeToString())
    done = run(*arguments, cwd=model.parent)
    assert done.returncode == 2
    assert message in done.stderr


def test_no_library(model: Path) -> None:
    done = run(model, env={"OPAU_LIBRARY": "/nowhere.so", "PATH": ""}, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 2
    assert "OPAU_LIBRARY is '/nowhere.so', but there is no such file" in done.stderr
