"""``opau-bench``: structure, files and errors. Runs are tiny, and no time that they take is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from opau_onnx.bench.names import SUBJECTS
from opau_onnx.cli.bench import app, parse_sizes
from tests.test_public_api import HEAVY

TINY = ("--rounds", "2", "--threads", "1", "--sizes", "100,2^10", "--quick", "--batches", "0")


class Done(NamedTuple):
    exit_code: int
    output: str


def run(*arguments: Any) -> Any:
    """Up to the measurement, which fails: the one pool of threads stays for good, and sessions of other tests would fail."""
    with patch("opau_onnx.bench.threads.share"):
        return CliRunner().invoke(app, [str(a) for a in arguments])


def measured(*arguments: Any, before: str = "") -> Done:
    """In a process of its own, after the statements ``before``."""
    program = f"{before}\nfrom opau_onnx.cli.bench import main\nmain()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    return Done(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One run with everything but torch.compile."""
    folder = tmp_path_factory.mktemp("bench")
    files = [
        v
        for kind, end in (("report", "json"), ("plot", "png"), ("markdown", "markdown"))
        for v in (f"--{kind}", folder / f"out.{end}")
    ]
    return measured(*TINY, "--batches", "1,3", "--dtypes", "float32,float16,bfloat16,float64", "--verbose", *files), folder


def test_json_holds_every_subject_or_the_reason(full: tuple[Any, Path]) -> None:
    done, folder = full
    assert done.exit_code == 0, done.output
    found = json.loads((folder / "out.json").read_text())
    assert found["schema"] == "opau_onnx.bench/1"
    assert [(c["dtype"], c["elements"]) for c in found["cases"]] == [
        (dtype, n) for dtype in ("float32", "float16", "bfloat16", "float64") for n in (100, 1024)
    ]
    absent = {(r["dtype"], r["subject"]): r["reason"] for r in found["not_measured"]}
    for case in found["cases"]:
        wanted = {key for key in SUBJECTS if key != "compile" and (case["dtype"], key) not in absent}
        assert set(case["results"]) == wanted
        assert case["bytes_moved"] == 2 * case["elements"] * {"float64": 8, "float32": 4}.get(case["dtype"], 2)
        for result in case["results"].values():
            assert 0 < result["min_s"] <= result["q1_s"] <= result["median_s"] <= result["q3_s"]
            assert result["turns"] == 2
        relu = case["results"].get("relu")
        for key, ratio in case["ratios"].get("relu", {}).items():
            assert ratio == pytest.approx(case["results"][key]["median_s"] / relu["median_s"])
    for key in ("cpu", "cores", "instruction_set", "onnxruntime", "torch", "opau_onnx", "cores_used_by_others"):
        assert key in found["machine"]
    assert [n["batch"] for n in found["networks"]] == [1, 3]
    assert {"relu", "function"} <= set(found["networks"][0]["results"])


def test_what_onnxruntime_lacks_is_said_and_not_replaced(full: tuple[Any, Path]) -> None:
    found = json.loads((full[1] / "out.json").read_text())
    absent = {(r["dtype"], r["subject"]): r["reason"] for r in found["not_measured"]}
    for dtype, subject in (("bfloat16", "relu"), ("bfloat16", "function"), ("float16", "gelu")):
        if (dtype, subject) in absent:
            assert f"not available in onnxruntime's CPU provider for {dtype}" in absent[dtype, subject]
    for case in found["cases"]:
        for key, operator in (("relu", "Relu"), ("gelu", "Gelu"), ("tanh", "Tanh"), ("identity", "Identity")):
            if key in case["results"]:
                assert case["results"][key]["implementation"] == f"CPUExecutionProvider: {operator}"


def test_the_function_body_and_the_kernel_are_told_apart(full: tuple[Any, Path]) -> None:
    found = json.loads((full[1] / "out.json").read_text())
    results = found["cases"][0]["results"]
    assert results["function"]["implementation"].startswith("CPUExecutionProvider: ")
    assert "OrthogonalPade" not in results["function"]["implementation"]
    if "kernel" in results:
        assert results["kernel"]["implementation"].startswith("CPUExecutionProvider: OrthogonalPade, compiled, ")
    else:
        assert any(r["subject"] == "kernel" for r in found["not_measured"])


def test_all_files_are_written(full: tuple[Any, Path]) -> None:
    done, folder = full
    assert sorted(p.name for p in folder.iterdir()) == ["out.json", "out.markdown", "out.png"]
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "## float32, microseconds" in (folder / "out.markdown").read_text()
    assert "who ran it" in done.output
    assert "float32, Relu: CPUExecutionProvider: Relu" in done.output
    assert "out.json written" in done.output


def test_without_a_library_the_rest_is_measured(tmp_path: Path) -> None:
    none = "from opau_onnx.bench import machine; machine.library = lambda: (None, 'not built: no compiler')"
    done = measured(*TINY, "--subjects", "kernel,relu", "--sizes", "64", "--report", tmp_path / "a.json", before=none)
    assert done.exit_code == 0, done.output
    assert "kernel (float32): not built: no compiler" in done.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found["cases"][0]["results"]) == {"relu"}
    assert found["machine"]["instruction_set"] is None


def test_another_activation(tmp_path: Path) -> None:
    done = measured(
        *TINY, "--subjects", "function,torch", "--sizes", "64", "--basis", "chebyshev", "--form", "abs_sum", "--degrees", "3,2",
        "--report", tmp_path / "a.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "chebyshev, abs_sum, degrees (3, 2)" in done.output
    assert json.loads((tmp_path / "a.json").read_text())["goals"] == []  # they are HP-1's


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1000", (1000,)),
        ("64Ki, 1Mi,7", (7, 65536, 1048576)),
        ("2^10..2^13", (1024, 2048, 4096, 8192)),
        ("1Ki..4Ki,1024", (1024, 2048, 4096)),
        ("2^31", (2**31,)),
    ],
)
def test_sizes(text: str, sizes: tuple[int, ...]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "0"), "whole numbers from 1 to 2^31"),
        (("--sizes", "2^32"), "whole numbers from 1 to 2^31"),
        (("--sizes", "99^99"), "whole numbers from 1 to 2^31"),
        (("--sizes", "many"), "'many'"),
        (("--sizes", ""), "whole numbers from 1 to 2^31"),
        (("--sizes", "1000..2000"), "range of powers of two"),
        (("--sizes", "2^12..2^10"), "the smaller first"),
        (("--dtypes", "int8"), "--dtypes holds 'int8'; expected some of float32"),
        (("--subjects", "relu,swish"), "--subjects holds 'swish'"),
        (("--device", "tpu"), "expected one of auto, cpu, cuda"),
        (("--batches", "-1"), "--batches is '-1'"),
        (("--degrees", "5"), "--degrees is '5'"),
        (("--degrees", "99,4"), "from 0 to 16"),
        (("--basis", "fourier"), "unknown basis 'fourier'"),
        (("--form", "square"), "unknown denominator form 'square'"),
        (("--threads", "0"), "threads"),
        (("--rounds", "0"), "rounds"),
        (("--report", "nowhere/a.json"), "does not exist or cannot be written"),
        (("--markdown", "."), "which is a folder"),
        (("--plot", "a.jpg"), "ends in .png"),
    ],
)
def test_bad_arguments_are_explained(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_cuda_that_cannot_be_had_is_an_error() -> None:
    from opau_onnx.bench.sessions import has_cuda

    if has_cuda():
        pytest.skip("there is a CUDA device")
    done = run(*TINY, "--device", "cuda")
    assert done.exit_code == 2
    assert "onnxruntime cannot use a GPU here; --device cpu measures on the CPU" in done.output


def test_a_plot_without_matplotlib_is_refused_before_the_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("--plot", tmp_path / "a.png")
    assert done.exit_code == 2
    assert "pip install 'opau-onnx[plot]'" in done.output


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("odd")], ids=["ctrl-c", "unexpected"])
def test_an_interrupted_run_writes_nothing(error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("opau_onnx.bench.run.measure", measure)
    done = run(*TINY, "--subjects", "relu", "--report", tmp_path / "a.json", "--markdown", tmp_path / "a.md")
    assert done.exit_code == 2
    assert ("interrupted; nothing was written" if isinstance(error, KeyboardInterrupt) else "RuntimeError: odd") in done.output
    assert not list(tmp_path.iterdir())


def test_a_plot_that_fails_leaves_no_other_file(tmp_path: Path) -> None:
    broken = (
        "import opau_onnx.bench.plot\n"
        "def plot(content, path):\n    raise OSError(28, 'No space left on device', 'a.png')\n"
        "opau_onnx.bench.plot.plot = plot"
    )
    done = measured(*TINY, "--subjects", "relu", "--report", tmp_path / "a.json", "--plot", tmp_path / "a.png", before=broken)
    assert done.exit_code == 2
    assert "a.png: No space left on device" in done.output
    assert not list(tmp_path.iterdir())


def test_help_and_version_load_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['opau-bench', '--help']\n"
        "from opau_onnx.cli.bench import main\ntry:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"loaded = [m for m in {HEAVY} if m in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Time the compiled activation" in done.stdout
    assert run("--version").output.startswith("opau-bench ")
