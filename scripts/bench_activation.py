"""Time and memory of HP-1 in training, against what users would pick instead; writes docs/benchmarks/activation.{json,md}.

Forward and backward (input and coefficients) in float32, on the CPU. The variants take turns, so that the machine's drift hits
all of them; medians, and ratios within the run. Peak memory is that of a process of its own: how far its high-water mark
rises during one forward and backward pass, above the input, the result and the gradient that exist in every variant.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from opau_onnx.nn import HP1

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
VARIANTS = ("plain", "plain compiled", "ours", "ours compiled", "ReLU", "GELU")
MIB = 2**20


class Plain(nn.Module):
    """HP-1 as one would write it: the recurrence in torch operations, gradients by autograd."""

    def __init__(self) -> None:
        super().__init__()
        start = HP1()
        self.numerator, self.denominator = start.numerator, start.denominator

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.ones_like(x), x]
        for n in range(1, 5):
            rows.append(x * rows[n] - n * rows[n - 1])
        top = self.numerator[0] * rows[0]
        for i in range(1, 6):
            top = top + self.numerator[i] * rows[i]
        bottom = rows[0]
        for j in range(4):
            bottom = bottom + self.denominator[j].abs() * rows[j + 1].abs()
        return top / bottom


def variant(name: str) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {"plain": Plain, "ours": HP1, "ReLU": nn.ReLU, "GELU": nn.GELU}
    module = makers[name.removesuffix(" compiled")]()
    if name.endswith("compiled"):
        module.compile()
    return module


def step(module: nn.Module, x: Tensor, g: Tensor) -> tuple[float, float]:
    """Seconds of the forward pass, and of both."""
    x.grad = None
    module.zero_grad(set_to_none=True)
    begin = time.perf_counter()
    y = module(x)
    middle = time.perf_counter()
    y.backward(g)
    return middle - begin, time.perf_counter() - begin


def times(size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds."""
    modules = {name: variant(name) for name in VARIANTS}
    x, g = (2 * torch.randn(size)).requires_grad_(), torch.randn(size)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(2):
        for module in modules.values():
            step(module, x, g)
    for _ in range(rounds):
        for name, module in modules.items():
            found[name].append(step(module, x, g))
    return {
        name: {
            "forward_ms": 1e3 * statistics.median(f for f, _ in pairs),
            "both_ms": 1e3 * statistics.median(b for _, b in pairs),
        }
        for name, pairs in found.items()
    }


def saved_bytes(name: str, size: int) -> int:
    """Bytes that the graph keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    module, x = variant(name), torch.randn(size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)  # held, so that no storage's address is used twice
    del y
    return sum(kept.values())


def peak_bytes(name: str, size: int) -> int:
    """In this process: the rise of the high-water mark; see the module's docstring."""
    module = variant(name)
    small = torch.randn(1 << 16, requires_grad=True)
    step(module, small, torch.ones_like(small))  # libraries and compiled code are loaded before
    x, g = torch.randn(size, requires_grad=True), torch.randn(size)
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is in use now
    before = high_water()
    step(module, x, g)
    return max(0, high_water() - before - 2 * 4 * size)


def high_water() -> int:
    """Most bytes of memory that this process ever held (Linux; ru_maxrss would also count its parent's)."""
    line = next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peak_of_a_process(name: str, size: int) -> int:
    command = [sys.executable, __file__, "--peak", name, "--size", str(size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def measure(sizes: list[int], rounds: int) -> dict[str, Any]:
    content: dict[str, Any] = {
        "command": "make bench",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": "cpu",
        "sizes": {},
    }
    for size in sizes:
        rows = times(size, rounds if size < 2**22 else max(5, rounds // 4))
        for name, row in rows.items():
            row["saved_mib"] = saved_bytes(name, size) / MIB
            row["peak_mib"] = peak_of_a_process(name, size) / MIB
            for key in ("forward_ms", "both_ms", "saved_mib", "peak_mib"):
                base = rows["plain"][key]
                row[f"{key.rpartition('_')[0]}_of_plain"] = row[key] / base if base else float("nan")
        content["sizes"][str(size)] = rows
    return content


def tables(content: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    head = [
        "variant",
        "forward ms",
        "forward + backward ms",
        "of plain",
        "of ReLU",
        "saved MiB",
        "of plain",
        "peak MiB",
        "of plain",
    ]
    found = []
    for size, rows in content["sizes"].items():
        relu = rows["ReLU"]["both_ms"]
        lines = [
            [
                name, f"{r['forward_ms']:.2f}", f"{r['both_ms']:.2f}", f"{r['both_of_plain']:.2f}",
                f"{r['both_ms'] / relu:.1f}", f"{r['saved_mib']:.0f}", f"{r['saved_of_plain']:.2f}",
                f"{r['peak_mib']:.0f}", f"{r['peak_of_plain']:.2f}",
            ]
            for name, r in rows.items()
        ]  # fmt: skip
        found.append((f"{int(size) / MIB:g} Mi elements", head, lines))
    return found


def write(content: dict[str, Any]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "activation.json").write_text(json.dumps(content, indent=2) + "\n")
    about = f"{content['cpu']}, {content['threads']} threads, torch {content['torch']}, {content['date']}"
    parts = ["# HP-1 in training, float32, CPU", f"`{content['command']}`, {about}. {' '.join((__doc__ or '').split()[14:])}"]
    for title, head, lines in tables(content):
        rows = [head, ["---"] * len(head), *lines]
        parts.append(f"## {title}\n\n" + "\n".join(f"| {' | '.join(r)} |" for r in rows))
    (FOLDER / "activation.md").write_text("\n\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="number of elements [1 Mi and 16 Mi]")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dry", action="store_true", help="write no files")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_bytes(options.peak, options.size[0]))
        return
    content = measure(options.size or [2**20, 2**24], options.rounds)
    for title, head, lines in tables(content):
        table = Table(*head, title=title)
        for line in lines:
            table.add_row(*line)
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    if not options.dry:
        write(content)


if __name__ == "__main__":
    main()
