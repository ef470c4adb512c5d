"""scripts/gpu.py, dry: on the CPU, so that the script does not fail for a typo where a GPU is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opau_onnx import native
from opau_onnx.native import cuda as native_cuda
from tests.custom_ops.library import required_library

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_all_parts_dry(tmp_path: Path) -> None:
    required_library()
    done = run("--dry", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["machine"]["dry"] is True
    assert set(record["parts"]) == {"kernels", "sanitizer", "bench", "training", "networks", "serving"}
    assert record["parts"]["training"]["passed"]
    assert record["parts"]["kernels"]["passed"]
    assert sum(record["parts"]["kernels"]["compared"].values()) > 100
    page = (tmp_path / "gpu.md").read_text()
    assert "a dry run" in page
    assert record["parts"]["networks"]["passed"], record["parts"]["networks"]
    assert record["parts"]["serving"]["networks"][0]["ran"]["HP-1, kernel"] == ["CPUExecutionProvider: kernel"]
    assert "## Training whole networks" in page
    assert "## Through onnxruntime" in page
    assert "HP-1" in page


def test_a_kernel_that_is_wrong_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of bits notices a single one."""
    required_library()
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_checks import device, kernels

    class Wrong(device.Cpu):
        def run(self, *arguments, **options):  # type: ignore[no-untyped-def]
            work = super().run(*arguments, **options)

            def off(x, y, extent):  # type: ignore[no-untyped-def]
                work(x, y, extent)
                last = y.view(-1)[-1:].view(kernels.BITS[y.element_size()])
                last += 1

            return off

    found = kernels.run(Wrong(None), few=True)
    assert not found["passed"]
    assert "have other bits" in found["failures"][0]


@pytest.mark.parametrize(("required", "code"), [("1", 1), ("", 2)])
def test_without_a_gpu(required: str, code: int, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    required_library()
    done = run("--output", str(tmp_path / "out"), OPAU_REQUIRE_CUDA=required)
    assert done.returncode == code
    assert "torch sees no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_library_without_cuda_kernels_says_so() -> None:
    required_library()
    if native_cuda.built(native.open_library()):
        pytest.skip("this library has CUDA kernels")
    from opau_onnx.core.spec import Config
    from opau_onnx.errors import SpecError

    with pytest.raises(SpecError, match="built without CUDA kernels"):
        native_cuda.CudaActivation(Config(), [1.0] * 6, [1.0] * 4)
