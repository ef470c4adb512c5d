"""Where kernels run: on the GPU, or on the CPU for a dry run."""

from __future__ import annotations

import ctypes
import datetime
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opau_onnx import native
from opau_onnx.core.spec import Config
from opau_onnx.errors import OpauError
from opau_onnx.native import cuda as native_cuda

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
Coefficients = tuple[Any, Any]
Run = Callable[[Tensor, Tensor, tuple[int, int, int]], None]
"""Computes y from x of an extent, on the current stream."""


def open_library(path: Path | None) -> ctypes.CDLL:
    return native.open_library(None if path is None else str(path))


def cpu_run(library: ctypes.CDLL, config: Config, values: Coefficients, dtype: str, affine: Coefficients | None) -> Run:
    """The CPU kernel; tensors on the CPU."""
    activation = native.Activation(config, *values, dtype, affine=affine, library=library)

    def run(x: Tensor, y: Tensor, extent: tuple[int, int, int]) -> None:
        activation.run(x.data_ptr(), y.data_ptr(), extent, (0, x.numel()))

    return run


class Gpu:
    """The current CUDA device."""

    name, dry = "cuda", False

    def __init__(self, path: Path | None) -> None:
        self.path, self.missing = path, self._missing(path)

    def _missing(self, path: Path | None) -> str | None:
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        try:
            self.library = open_library(path)
        except (OpauError, OSError) as error:
            return f"the library cannot be loaded: {error}"
        if not native_cuda.built(self.library):
            return "the library was built without CUDA kernels: make library PRESET=cuda"
        return None

    def describe(self) -> dict[str, Any]:
        query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
        try:
            done = subprocess.run(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, check=False
            )
            said = dict(zip(query.split(","), done.stdout.strip().split(", "), strict=False))
        except OSError:
            said = {}
        properties = torch.cuda.get_device_properties(0)
        return {
            "device": properties.name, "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}", "driver": said.get("driver_version", ""), "clocks": said,
            "torch": torch.__version__, "cuda": torch.version.cuda, "date": datetime.date.today().isoformat(), "dry": False,
        }  # fmt: skip

    def run(self, config: Config, values: Coefficients, dtype: str, affine: Coefficients | None = None) -> Run:
        activation = native_cuda.CudaActivation(config, *values, dtype, affine=affine, library=self.library)
        memory = torch.empty(max(activation.device_bytes, 1), dtype=torch.uint8, device="cuda")
        if activation.device_bytes:
            activation.upload(memory.data_ptr())

        def run(x: Tensor, y: Tensor, extent: tuple[int, int, int], _kept: Any = memory) -> None:
            activation.run(x.data_ptr(), y.data_ptr(), extent, torch.cuda.current_stream().cuda_stream)

        return run

    def seconds(self, work: Callable[[], Any], times: int) -> float:
        """Of one call among ``times`` in a CUDA graph; the smallest of several replays."""
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                work()
        found: list[float] = []
        for _ in range(5):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            found.append(float(start.elapsed_time(end)) / 1000 / times)
        return min(found)

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class Cpu:
    """The CPU kernels in place of the CUDA ones."""

    name, dry, missing = "cpu", True, None

    def __init__(self, path: Path | None) -> None:
        self.path, self.library = path, open_library(path)

    def describe(self) -> dict[str, Any]:
        return {
            "device": f"none: a dry run on {platform.machine()}", "torch": torch.__version__,
            "date": datetime.date.today().isoformat(), "dry": True,
        }  # fmt: skip

    def run(self, config: Config, values: Coefficients, dtype: str, affine: Coefficients | None = None) -> Run:
        return cpu_run(self.library, config, values, dtype, affine)

    def seconds(self, work: Callable[[], Any], times: int) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    def synchronize(self) -> None:
        """Nothing runs beside."""
