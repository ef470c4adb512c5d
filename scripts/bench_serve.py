"""Cost of serving: opau-serve over HTTP and gRPC next to onnxruntime in this process.

Writes docs/benchmarks/serve.{json,md}. 16 closed-loop clients send one row each, as binary tensors; every response is checked.
The clients run on the same machine, so they take their share of its cores. In each round every subject has its turn; the table
holds medians, and ratios within the run.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from opau_onnx import export_model
from opau_onnx.bench import machine
from opau_onnx.cli.common import console
from opau_onnx.io.atomic import replacing
from opau_onnx.io.source import load as read_checkpoint
from opau_onnx.loadtest.api import run as load
from opau_onnx.loadtest.config import LoadTestConfig
from opau_onnx.loadtest.result import LoadResult
from opau_onnx.nn import HP1
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.sessions import open_model

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
LENET = ROOT / "models" / "lenet_hp1_fashion_mnist.pt"
CLIENTS = 16
BATCH = 16
"""Rows of a run in this process: what 16 clients can fill."""
Turn = dict[str, float]


def convolutions(*layers: tuple[int, int]) -> nn.Module:
    """3x3 convolutions (channels, stride), each with HP-1, then the mean of each channel and 10 classes."""
    parts: list[nn.Module] = []
    channels = 3
    for more, stride in layers:
        parts += [nn.Conv2d(channels, more, 3, stride=stride, padding=1), HP1()]
        channels = more
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def write_models(folder: Path) -> dict[str, Path]:
    """The networks of the comparison, with HP-1."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(256, 512), HP1(), nn.Linear(512, 512), HP1(), nn.Linear(512, 10))
    lenet = read_checkpoint(LENET)
    examples = {
        "conv": (convolutions((32, 1), (64, 1), (64, 2), (128, 1), (128, 1)), torch.randn(2, 3, 64, 64)),
        "conv_light": (convolutions((32, 1), (64, 2), (64, 1)), torch.randn(2, 3, 64, 64)),
        "mlp": (mlp, torch.randn(2, 256)),
        "lenet": (lenet.model, lenet.inputs[0]),
    }
    return {
        name: export_model(net.eval(), folder / f"{name}.onnx", x, validate=False).path for name, (net, x) in examples.items()
    }


IN_PROCESS = {
    "one row a run, 1 thread": (1, 1),
    f"{BATCH} rows a run, 1 thread": (BATCH, 1),
    f"{BATCH} rows a run, 2 threads": (BATCH, 2),
}
"""Rows of a run and threads, by what the table calls it."""


def in_process(path: Path, rows: int, workers: int, seconds: float) -> Turn:
    """onnxruntime in this process: so many threads, each of which makes one run after the other."""
    opened = open_model(ModelSettings(path=str(path)))
    session, (spec,) = opened.sessions[0], opened.inputs
    x = np.random.default_rng(0).standard_normal((rows, *spec.shape[1:])).astype(np.float32)
    counts = [0] * workers
    session.run(None, {spec.name: x})
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            session.run(None, {spec.name: x})
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"rows_per_s": sum(counts) * rows / (time.perf_counter() - started)}


@contextlib.contextmanager
def served(models: Sequence[Path], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """An opau-serve that is ready, on ports 18000 and 18001."""
    command = [sys.executable, "-m", "opau_onnx.cli.serve", *map(str, models), "--http-port", "18000", "--grpc-port", "18001"]
    process = subprocess.Popen([*command, "--log-level", "warning", *options])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise RuntimeError(f"opau-serve ended with {process.returncode}")


def turn(url: str, model: str, path: Path, *, clients: int = CLIENTS, **bounds: Any) -> LoadResult:
    """One load test; ends the benchmark where a response is incorrect or missing."""
    found = load(url, model, LoadTestConfig(clients=clients, expect=path, wait_s=60.0, **bounds))
    if not found.ok:
        raise RuntimeError(f"{model} over {url}: {dict(found.counts)} {dict(found.errors)}")
    return found


URLS = {"HTTP": "http://127.0.0.1:18000", "gRPC": "grpc://127.0.0.1:18001"}


def compare(models: dict[str, Path], rounds: int, seconds: float) -> dict[str, dict[str, list[Turn]]]:
    """Every turn of every subject, by model."""
    found: dict[str, dict[str, list[Turn]]] = {name: {} for name in models}
    for _ in range(rounds):
        for name, path in models.items():
            for key, (rows, workers) in IN_PROCESS.items():
                found[name].setdefault(key, []).append(in_process(path, rows, workers, seconds))
            with served([path]):
                for protocol, url in URLS.items():
                    result = turn(url, name, path, seconds=seconds)
                    one = {"rows_per_s": result.rows_per_s, **{p: result.latency_ms[p] for p in ("p50", "p99", "p99.9")}}
                    found[name].setdefault(protocol, []).append(one)
    return found


def resident_bytes(pid: int) -> int:
    """Of a process, on Linux."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def endurance(path: Path, requests: int) -> dict[str, Any]:
    """Many requests from 64 clients with 1 to 8 rows, half by each protocol, and the server's memory meanwhile."""
    parts, memory = 10, []
    counts: dict[str, int] = {}
    with served([path]) as process:
        for part in range(parts):
            url = list(URLS.values())[part % 2]
            share = {"requests": requests // parts, "seconds": 600.0, "rows": (1, 8), "seed": part}
            result = turn(url, path.stem, path, clients=64, **share)
            for kind, count in result.counts.items():
                counts[kind] = counts.get(kind, 0) + count
            memory.append(resident_bytes(process.pid))
    return {"model": path.stem, "clients": 64, "counts": counts, "resident_bytes": memory}


def kernel_and_function(path: Path) -> dict[str, Any]:
    """The same requests with the library and without it, against one expected response; the implementation that it reports."""
    found = {}
    for library in ("yes", "no"):
        with served([path], "--library", library):
            result = turn(URLS["HTTP"], path.stem, path, seconds=3.0)
            parameters = result.model["parameters"]
            found[library] = {"implementation": parameters["implementation"], "counts": dict(result.counts)}
    return found


def medians(turns: list[Turn]) -> Turn:
    return {key: statistics.median(one[key] for one in turns) for key in turns[0]}


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Serving",
        "",
        f"`python scripts/bench_serve.py`, {report['date']}, {report['machine']['cpu']}, {report['cores']} cores, onnxruntime "
        f"{report['machine']['onnxruntime']}. {CLIENTS} closed-loop clients on the same cores, one row a request, binary "
        "tensors, every response checked; the default settings. Above HTTP: onnxruntime in one process, without a server, one "
        f"onnxruntime thread a run. Medians of {report['rounds']} rounds of {report['seconds']:g} s.",
        "",
    ]
    for name, subjects in report["models"].items():
        found = {key: medians(turns) for key, turns in subjects.items()}
        bases = list(IN_PROCESS)
        shares = " | ".join(f"of {base}" for base in bases)
        lines += [f"## {name}", "", f"| | rows/s | {shares} | p50 ms | p99 ms | p99 / p50 |"]
        lines.append("|---" * (5 + len(bases)) + "|")
        for key, one in found.items():
            shares = " | ".join(f"{one['rows_per_s'] / found[base]['rows_per_s']:.2f}" for base in bases)
            times = f"{one['p50']:.2f} | {one['p99']:.2f} | {one['p99'] / one['p50']:.1f}" if "p50" in one else "| |"
            lines.append(f"| {key} | {one['rows_per_s']:,.0f} | {shares} | {times} |")
        lines.append("")
    long = report["endurance"]
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in long["resident_bytes"])
    lines += [
        "## Endurance",
        "",
        f"{long['model']}, {long['clients']} clients, 1 to 8 rows, HTTP and gRPC in turn: {long['counts']}. "
        f"Resident memory of the server after each tenth, MB: {sizes}.",
        "",
        "## With and without the library",
        "",
        *(f"- `--library {key}`: {one['implementation']}, {one['counts']}" for key, one in report["library"].items()),
        "",
    ]
    return "\n".join(lines)


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Of each turn.")] = 5.0,
    requests: Annotated[int, typer.Option(help="Of the endurance test.")] = 200_000,
    output_dir: Annotated[Path, typer.Option(help="Where serve.json and serve.md go.")] = FOLDER,
) -> None:
    """Measure opau-serve next to onnxruntime in one process."""
    with tempfile.TemporaryDirectory() as temporary:
        models = write_models(Path(temporary))
        report: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine.describe(),
            "cores": os.cpu_count(),
            "rounds": rounds,
            "seconds": seconds,
            "models": compare(models, rounds, seconds),
            "endurance": endurance(models["mlp"], requests),
            "library": kernel_and_function(models["lenet"]),
        }
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in (("serve.json", json.dumps(report, indent=1) + "\n"), ("serve.md", page(report))):
        with replacing(output_dir / name) as file:
            file.write_text(text, encoding="utf-8")
    console().print(page(report), markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(main)
