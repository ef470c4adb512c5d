"""Pinned memory and copies through the CUDA runtime, what may happen beside a capture, and GPUs' memory; all without a GPU."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from opau_onnx import create_session
from opau_onnx.errors import DeviceError, LoadError
from opau_onnx.serve import devices, sessions
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.cuda_graphs import CaptureLock, explained, nodes_off_gpu
from opau_onnx.serve.memory import SMALLEST, CudaMemory, CudaRuntime, loaded_runtime
from tests.serve import nets
from tests.serve.cudart import stub


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub(tmp_path_factory.mktemp("cudart"))


@pytest.fixture
def memory(library: Path) -> CudaMemory:
    found = CudaMemory(0, CudaRuntime(str(library)))
    found.enter()
    return found


def test_pinned_memory_is_used_again_once_no_view_is_left(memory: CudaMemory, library: Path) -> None:
    allocations = ctypes.CDLL(str(library)).stub_allocations
    before = allocations()
    first = memory.pinned(SMALLEST + 1)
    assert (first.nbytes, first.ctypes.data % 4096, first.flags.writeable) == (2 * SMALLEST, 0, True)
    view, address = first[3:11].view(np.uint8).reshape(2, 4), first.ctypes.data
    del first
    gc.collect()
    assert memory.pinned(2 * SMALLEST).ctypes.data != address  # a view is left
    del view
    gc.collect()
    found = {memory.pinned(SMALLEST + 5).ctypes.data for _ in range(50)}  # given back each time
    assert address in found
    assert allocations() - before == 2
    assert memory.pinned(1).nbytes == SMALLEST


def test_copies_are_there_after_the_wait(memory: CudaMemory) -> None:
    device, host = np.zeros(8, np.float32), memory.pinned(64).view(np.float32)
    host[:8] = np.arange(8)
    memory.upload(device.ctypes.data, host[:8])
    memory.upload(device.ctypes.data, host[:0])  # nothing
    memory.wait()
    assert np.array_equal(device, np.arange(8))
    memory.download(host[8:12], device.ctypes.data + 8)
    memory.wait()
    assert np.array_equal(host[8:12], [2, 3, 4, 5])


def test_what_cuda_says_is_told(memory: CudaMemory, library: Path) -> None:
    with pytest.raises(DeviceError, match=r"cudaMemcpyAsync failed: invalid argument \(CUDA error 1\)"):
        memory.upload(0, np.zeros(3))  # not pinned
    with pytest.raises(DeviceError, match=r"cudaSetDevice failed: invalid device ordinal \(CUDA error 101\)"):
        CudaMemory(7, CudaRuntime(str(library))).enter()


def test_the_real_runtime_without_a_gpu() -> None:
    """NVIDIA's own library, by the name that onnxruntime's provider asks for."""
    name = f"libcudart.so.{onnxruntime.cuda_version.partition('.')[0]}"
    try:
        ctypes.CDLL(name)
    except OSError:
        pytest.skip(f"{name} is not installed")
    memory = CudaMemory(0)
    try:
        memory.enter()
    except DeviceError as error:
        assert "cudaSetDevice failed: " in str(error)  # noqa: PT017
        assert "unknown" not in str(error)  # noqa: PT017
    else:
        pytest.skip("there is a GPU; test_cuda_gpu.py runs on it")


def test_a_runtime_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="the CUDA runtime cannot be loaded"):
        CudaRuntime("libcudart.so.none")
    monkeypatch.setattr(onnxruntime, "cuda_version", "")
    loaded_runtime.cache_clear()
    with pytest.raises(DeviceError, match="built without CUDA"):
        loaded_runtime()


def test_a_capture_is_alone() -> None:
    captures, inside = CaptureLock(), []
    wrong: list[str] = []

    def work(kind: str) -> None:
        for _ in range(30):
            with captures.capturing() if kind == "capture" else captures.running():
                inside.append(kind)
                time.sleep(0)
                if "capture" in inside and len(inside) > 1:
                    wrong.append(f"{inside}")
                inside.remove(kind)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("run", "capture", "run", "capture", "run")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert not inside


def test_runs_go_on_while_a_session_is_made_but_captures_wait() -> None:
    captures, begun = CaptureLock(), threading.Event()

    def capture() -> None:
        with captures.capturing():
            begun.set()

    with captures.creating():
        thread = threading.Thread(target=capture)
        thread.start()
        with captures.running():
            pass
        assert not begun.wait(0.05)
    thread.join(30)
    assert begun.is_set()


def test_an_error_ends_a_turn() -> None:
    captures = CaptureLock()
    for turn in (captures.running, captures.capturing, captures.creating):
        with pytest.raises(ValueError, match="on purpose"), turn():
            raise ValueError("on purpose")
    with captures.capturing():
        pass


def test_nodes_that_keep_a_model_from_being_captured_are_named(tmp_path: Path) -> None:
    def without_graphs() -> onnxruntime.InferenceSession:
        return create_session(nets.linear(tmp_path / "m.onnx"), "cpu")

    assert [node.split(" ", 1)[1] for node in nodes_off_gpu(without_graphs())] == [
        "(Mul, CPUExecutionProvider)",
        "(Add, CPUExecutionProvider)",
    ]
    refusal = RuntimeError("This session cannot use the graph capture feature as requested by the user")
    found = explained(refusal, without_graphs)
    assert found.startswith(str(refusal))
    assert "(Mul, CPUExecutionProvider), " in found
    assert explained(RuntimeError("no model"), without_graphs) == "no model"

    def failing() -> None:
        raise RuntimeError("out of memory")

    assert "could not be found out: out of memory" in explained(refusal, failing)


def test_a_server_asks_for_graphs_and_names_what_is_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU where the model's nodes have no kernels."""
    path, asked = nets.linear(tmp_path / "m.onnx"), []

    def create(source: bytes, device: str, *, provider_options: dict[str, str], **options: Any) -> onnxruntime.InferenceSession:
        asked.append(provider_options)
        if "enable_cuda_graph" in provider_options:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return create_session(source, "cpu", **options)

    monkeypatch.setattr(sessions, "create_session", create)
    with pytest.raises(LoadError, match=r"This session cannot .*\(Mul, CPUExecutionProvider\), .*leave cuda_graph out"):
        sessions.open_model(ModelSettings(path=str(path), device="cuda", cuda_graph=True))
    without = {"cudnn_conv_algo_search": "HEURISTIC"}
    assert asked == [{**without, "enable_cuda_graph": "1"}, without]


class FakeNvml(SimpleNamespace):
    """NVIDIA's management library, with a GPU, one that is lost, and one whose memory is the host's."""

    class NVMLError(Exception):
        pass

    calls = 0

    def nvmlInit(self) -> None:
        type(self).calls += 1

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index == 1:
            raise self.NVMLError("lost")
        return f"gpu{index}"

    def nvmlDeviceGetMemoryInfo(self, device: str) -> SimpleNamespace:
        if device == "gpu2":
            raise self.NVMLError("not supported")
        return SimpleNamespace(used=3 << 30, total=80 << 30, free=77 << 30)


@pytest.fixture
def _forget() -> Iterator[None]:
    devices._devices.cache_clear()
    yield
    devices._devices.cache_clear()


@pytest.mark.usefixtures("_forget")
def test_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert devices.device_memory() == [(0, 3 << 30, 80 << 30)]
    assert devices.device_memory() == [(0, 3 << 30, 80 << 30)]
    assert nvml.calls == 1


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("missing", ["driver", "package"])
def test_no_device_memory(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    nvml = FakeNvml()

    def no_driver() -> None:
        raise nvml.NVMLError("Driver Not Loaded")

    nvml.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", nvml if missing == "driver" else None)
    assert devices.device_memory() == []


@pytest.mark.usefixtures("_forget")
def test_device_memory_of_this_machine() -> None:
    for index, used, total in devices.device_memory():
        assert index >= 0
        assert 0 <= used <= total
