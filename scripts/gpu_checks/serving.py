"""Whole networks through onnxruntime's CUDA provider, and opau-serve with CUDA graphs under load."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpu_checks.device import Cpu, Gpu
from opau_onnx import get_library_path, models
from opau_onnx.errors import LibraryError

CLIENTS = 16
PORT = 18101


def run(target: Gpu | Cpu, *, few: bool) -> dict[str, Any]:
    if target.path is not None and (target.path.parent / "build.json").exists():  # one that onnxruntime can load
        os.environ["OPAU_LIBRARY"] = str(target.path.resolve())
    missing = _missing(target)
    if missing:
        return {"passed": True, "note": missing, "networks": [], "served": []}
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), few)
        networks = [row for kind, pair in files.items() for row in _network(target, kind, pair, few)]
        served = [] if few else [row for kind, pair in files.items() for row in _served(target, kind, pair)]
    return {"passed": all(row["failed"] == 0 for row in served), "networks": networks, "served": served}


def _missing(target: Gpu | Cpu) -> str | None:
    try:
        import onnxruntime
    except ImportError as error:
        return str(error)
    if not target.dry and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} has no CUDA provider; install onnxruntime-gpu"
    try:
        get_library_path()
    except LibraryError as error:
        return f"onnxruntime cannot load the op library: {error}"
    return None


def _files(folder: Path, few: bool) -> dict[str, dict[str, Path]]:
    """Exported networks with ReLU and HP-1 by architecture."""
    from opau_onnx import export_model

    shapes = {"lenet": (1, 28, 28)} if few else {"lenet": (1, 28, 28), "preact_resnet18": (3, 32, 32)}
    found: dict[str, dict[str, Path]] = {}
    for kind, shape in shapes.items():
        for activation in ("relu", "hp1"):
            torch.manual_seed(0)
            net = models.create(kind, activation=activation).eval()
            path = folder / f"{kind}_{activation}.onnx"
            export_model(net, path, torch.randn(2, *shape), validate=False)
            found.setdefault(kind, {})[activation] = path
    return found


def _network(target: Gpu | Cpu, kind: str, files: dict[str, Path], few: bool) -> Iterator[dict[str, Any]]:
    """Milliseconds of a run on bound device memory, and what ran the activations."""
    from opau_onnx import create_session
    from opau_onnx.runtime.assignment import assignments

    subjects = {"ReLU": (files["relu"], False), "HP-1, kernel": (files["hp1"], True), "HP-1, function": (files["hp1"], False)}
    sessions = {
        name: create_session(path, "cpu" if target.dry else "cuda", library=library)
        for name, (path, library) in subjects.items()
    }
    ran = {name: sorted({f"{a.provider}: {a.implementation}" for a in assignments(one)}) for name, one in sessions.items()}
    for batch in (1,) if few else (1, 16, 128):
        works = {name: _bound(target, session, batch) for name, session in sessions.items()}
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(2 if few else 7):
            for name, work in works.items():
                found[name].append(_seconds(work, 2 if few else 20))
        times = {name: round(1000 * statistics.median(turns), 4) for name, turns in found.items()}
        yield {"network": kind, "batch": batch, "ms": times, "ran": ran}


def _bound(target: Gpu | Cpu, session: Any, batch: int) -> Callable[[], None]:
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    x = torch.randn(batch, *source.shape[1:], device=target.name)
    y = torch.empty(batch, *result.shape[1:], device=target.name)
    binding = session.io_binding()
    binding.bind_input(source.name, target.name, 0, 1, list(x.shape), x.data_ptr())  # 1: TensorProto.FLOAT
    binding.bind_output(result.name, target.name, 0, 1, list(y.shape), y.data_ptr())

    def work(_kept: Any = (x, y)) -> None:
        session.run_with_iobinding(binding)

    for _ in range(3):
        work()
    return work


def _seconds(work: Callable[[], None], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times


@contextmanager
def _server(path: Path, device: str, *options: str) -> Iterator[None]:
    command = [sys.executable, "-m", "opau_onnx.cli.serve", str(path), "--device", device, "--http-port", "-1"]
    command += ["--grpc-port", str(PORT), "--log-level", "warning", "--max-batch-size", str(CLIENTS), *options]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _served(target: Gpu | Cpu, kind: str, files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Rows a second and latency over gRPC, one row a request; every result compared with the CPU's within what TF32 changes."""
    from opau_onnx.loadtest.api import run as load
    from opau_onnx.loadtest.config import LoadTestConfig

    for activation, path in files.items():
        for graph in (False,) if target.dry else (False, True):
            with _server(path, target.name, *(("--cuda-graph",) if graph else ())):
                config = LoadTestConfig(clients=CLIENTS, seconds=3.0, wait_s=60.0, rtol=2e-2, atol=2e-2, expect=path)
                found = load(f"grpc://127.0.0.1:{PORT}", path.stem, config)
            yield {
                "network": kind, "activation": activation, "cuda_graph": graph, "rows_per_s": round(found.rows_per_s, 1),
                "p50_ms": round(found.latency_ms["p50"], 3), "p99_ms": round(found.latency_ms["p99"], 3),
                "counts": dict(found.counts), "failed": 0 if found.ok else 1,
                "implementation": found.model["parameters"]["implementation"],
            }  # fmt: skip
