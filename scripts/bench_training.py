"""HP-1 in training on the CPU, against what users would pick instead; writes docs/benchmarks/training.{json,md}.

Forward and backward pass (input and coefficients). The subjects take turns, so that the machine's drift hits all of them;
medians, and ratios within the run. glibc keeps its memory (mallopt): where it gives it back, fresh pages cost a small network
up to a third of its step, whatever its activation. Peak memory is that of a process of its own: how far its high-water mark
rises during one forward and backward pass, above the input, the result and the gradient, which every variant has.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from training_bench import memory, timing
from training_bench.subjects import VARIANTS

from opau_onnx.nn import implementation

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
SIZES = (1 << 16, 1 << 20, 1 << 24)
DTYPES = ("float32", "bfloat16")


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def measure(sizes: list[int], rounds: int) -> dict[str, Any]:
    timing.keep_the_heap()
    torch.compiler.config.force_disable_caches = True  # graphs of an earlier state of this package would be measured
    return {
        "command": "make bench",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "implementation": str(implementation()),
        "call_ms": timing.calls(rounds * 50),
        "layers_ms": {
            dtype: {
                str(size): timing.layers(size, getattr(torch, dtype), max(5, rounds if size < 1 << 22 else rounds // 4))
                for size in sizes
            }
            for dtype in DTYPES
        },
        "grouped_ms": timing.grouped(rounds),
        "step_ms": timing.networks(rounds),
        "memory_mib": {
            str(size): {
                name: {"saved": memory.saved_bytes(name, size) / 2**20, "peak": memory.peak_of_a_process(name, size) / 2**20}
                for name in VARIANTS
            }
            for size in sizes
            if size >= 1 << 20
        },
    }


def rows(times: dict[str, dict[str, float]], bases: tuple[str, ...]) -> str:
    """A table: milliseconds, and the ratio to each base."""
    names = list(dict.fromkeys(name for column in times.values() for name in column))
    lines = [["", *times], ["---"] * (len(times) + 1)]
    for name in names:
        cells = []
        for column in times.values():
            ratios = ", ".join(f"{column[name] / column[base]:.2f}" for base in bases if name in column and base != name)
            cells.append(f"{column[name]:.3g} ms ({ratios})" if name in column else "")
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(content: dict[str, Any]) -> str:
    about = f"{content['cpu']}, {content['threads']} threads, torch {content['torch']}, {content['date']}"
    parts = ["# HP-1 in training, CPU", f"`{content['command']}`, {about}: {content['implementation']}."]
    parts.append(" ".join((__doc__ or "").partition("\n\n")[2].split()))
    for dtype, sizes in content["layers_ms"].items():
        columns = {f"{int(size) / 1024:,.0f} Ki": times for size, times in sizes.items()}
        parts.append(f"## One layer, {dtype}: over nn.ReLU, over nn.GELU\n\n{rows(columns, ('nn.ReLU', 'nn.GELU'))}")
    call = {"64 elements": content["call_ms"]}
    parts.append(
        f"## One call: over an empty autograd.Function of two parameters\n\n{rows(call, ('empty autograd.Function',))}"
    )
    parts.append(f"## Coefficients by group: over nn.GELU\n\n{rows(content['grouped_ms'], ('nn.GELU',))}")
    parts.append(f"## A training step: over the network with ReLU\n\n{rows(content['step_ms'], ('relu',))}")
    head = "| MiB | " + " | ".join(f"{int(size) >> 20} Mi: saved | peak" for size in content["memory_mib"]) + " |"
    lines = [head, "| --- " * (1 + 2 * len(content["memory_mib"])) + "|"]
    for name in VARIANTS:
        values = [f"{v[name][key]:.0f}" for v in content["memory_mib"].values() for key in ("saved", "peak")]
        lines.append(f"| {name} | {' | '.join(values)} |")
    parts.append("## Memory, float32\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="number of elements [64 Ki, 1 Mi and 16 Mi]")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--dry", action="store_true", help="write no files")
    parser.add_argument("--peak", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(memory.peak_bytes(options.peak, options.size[0]))
        return
    content = measure(options.size or list(SIZES), options.rounds)
    text = page(content)
    Console().print(Markdown(text))
    if not options.dry:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "training.json").write_text(json.dumps(content, indent=2) + "\n")
        (FOLDER / "training.md").write_text(text)


if __name__ == "__main__":
    main()
