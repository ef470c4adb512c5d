"""Batch sizes of opau-serve: those that it measures in its warm-up, next to fixed ones, for a cheap and a dear model.

Prints a table for docs/serve.md: answers per second, requests without one, and latencies. The clients run on the same machine.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from opau_onnx import export_model
from opau_onnx.loadtest.api import run as load
from opau_onnx.loadtest.config import LoadTestConfig
from opau_onnx.nn import HP1

URL = "grpc://127.0.0.1:18001"
DEADLINE_SECONDS = 3.0
SIZES = {
    "measured": "",
    "1": "buckets = [1]\nmax_batch_size = 1",
    "8": "buckets = [8]\nmax_batch_size = 8",
    "32": "buckets = [32]",
}
"""Lines of a model's table by what the result calls it: with one bucket there is nothing to choose."""


def write(folder: Path) -> dict[str, Path]:
    """A perceptron, and a network of convolutions that takes tens of milliseconds for each row."""
    torch.manual_seed(0)
    cheap = nn.Sequential(nn.Linear(256, 512), HP1(), nn.Linear(512, 10))
    layers: list[nn.Module] = []
    for before, after in ((3, 48), (48, 64), (64, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), HP1()]
    dear = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    examples = {"cheap": (cheap, torch.randn(2, 256)), "dear": (dear, torch.randn(2, 3, 128, 128))}
    return {n: export_model(m.eval(), folder / f"{n}.onnx", x, validate=False).path for n, (m, x) in examples.items()}


@contextlib.contextmanager
def served(path: Path, lines: str) -> Iterator[None]:
    """An opau-serve with this model, whose table has these lines."""
    config = path.with_suffix(".toml")
    server = f"[server]\nhttp_port = -1\ngrpc_port = 18001\nlog_level = 'error'\nrequest_timeout_s = {DEADLINE_SECONDS}\n"
    config.write_text(f"{server}[models.{path.stem}]\npath = '{path}'\n{lines}\n", encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-m", "opau_onnx.cli.serve", "--config", str(config)])
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main(
    clients: Annotated[int, typer.Option(help="Closed-loop, one row a request.")] = 100,
    seconds: Annotated[float, typer.Option(help="Of each turn.")] = 10.0,
) -> None:
    """Measure."""
    print("| model | batch size | responses/s | deadline exceeded | p50 ms | p99 ms |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in write(Path(folder)).items():
            for size, lines in SIZES.items():
                with served(path, lines):
                    found = load(URL, name, LoadTestConfig(clients=clients, expect=path, wait_s=120.0, seconds=seconds))
                if size == "measured":
                    size = f"measured: {found.model['parameters']['preferred_batch_size']}"
                late = {kind: count for kind, count in found.counts.items() if kind != "right"}
                times = " | ".join(f"{found.latency_ms[p]:,.1f}" for p in ("p50", "p99"))
                print(f"| {name} | {size} | {found.rows_per_s:,.0f} | {late or 0} | {times} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
