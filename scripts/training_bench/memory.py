"""Memory of one forward and backward pass: what the graph keeps, and the peak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from training_bench.subjects import variant
from training_bench.timing import both


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
    """In this process: the rise of the high-water mark, above the input, the result and the gradient."""
    module = variant(name)
    small = torch.randn(1 << 16, requires_grad=True)
    both(module, small, torch.ones_like(small))()  # libraries and compiled code are loaded before
    x, g = torch.randn(size, requires_grad=True), torch.randn(size)
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is in use now
    before = _high_water()
    both(module, x, g)()
    return max(0, _high_water() - before - 2 * 4 * size)


def _high_water() -> int:
    """Most bytes of memory that this process ever held (Linux; ru_maxrss would also count its parent's)."""
    line = next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peak_of_a_process(name: str, size: int) -> int:
    """:func:`peak_bytes` in a process of its own."""
    script = Path(__file__).parent.parent / "bench_training.py"
    command = [sys.executable, str(script), "--peak", name, "--size", str(size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
