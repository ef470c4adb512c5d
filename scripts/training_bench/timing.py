"""Medians of subjects that take turns, and of whole networks."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx import models
from opau_onnx.nn import HP1
from training_bench.subjects import VARIANTS, Empty, variant

GROUPED = {
    "8 groups, (8, 64, 32, 32)": ((8, 64, 32, 32), 8, 1, False),
    "by channel, (8, 64, 32, 32)": ((8, 64, 32, 32), 64, 1, False),
    "by channel, (8, 64, 32, 32) channels last": ((8, 64, 32, 32), 64, 1, True),
    "8 groups, KAT's (8, 197, 768)": ((8, 197, 768), 8, -1, False),
}
"""Name -> shape, groups, axis, channels last."""

EMPTY = "empty autograd.Function"
NETWORKS = {"lenet": (128, 1, 28), "mobilenet_v2": (8, 3, 32), "preact_resnet18": (8, 3, 32)}
"""Architecture -> batch, channels, width."""


def keep_the_heap() -> None:
    """Tell glibc to give no memory back: fresh pages cost a small network a third of its step, whatever its activation."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        if mallopt is not None:
            mallopt(parameter, 1 << 30)


def medians(subjects: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(rounds + 3):
        for name, run in subjects.items():
            begin = time.perf_counter()
            run()
            if turn >= 3:
                found[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(times) for name, times in found.items()}


def both(module: nn.Module, x: Tensor, g: Tensor) -> Callable[[], None]:
    """A forward and a backward pass."""

    def run() -> None:
        x.grad = None
        module.zero_grad(set_to_none=True)
        torch.autograd.backward(module(x), g)

    return run


def layers(size: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Milliseconds of both passes of every variant."""
    x, g = (2 * torch.randn(size)).to(dtype).requires_grad_(), torch.randn(size).to(dtype)
    skipped = {"rational-activations"} if dtype != torch.float32 else set()  # it takes float32 alone
    return medians({name: both(variant(name), x, g) for name in VARIANTS if name not in skipped}, rounds)


def grouped(rounds: int) -> dict[str, dict[str, float]]:
    """HP1 with several rows of coefficients, and nn.GELU."""
    found = {}
    for name, (shape, groups, axis, last) in GROUPED.items():
        order = torch.channels_last if last else torch.contiguous_format
        x, g = (torch.randn(shape).contiguous(memory_format=order) for _ in range(2))
        x.requires_grad_()
        found[name] = medians({"nn.GELU": both(nn.GELU(), x, g), "HP1": both(HP1(groups=groups, axis=axis), x, g)}, rounds)
    return found


def calls(rounds: int) -> dict[str, float]:
    """At 64 elements, where there is nothing to compute."""
    x, g = torch.randn(64, requires_grad=True), torch.randn(64)
    modules = {"nn.ReLU": nn.ReLU(), EMPTY: Empty(), "HP1": HP1()}
    return medians({name: both(module, x, g) for name, module in modules.items()}, rounds)


def networks(rounds: int) -> dict[str, dict[str, float]]:
    """A training step with SGD, of the network with each activation."""
    found = {}
    for name, (batch, channels, width) in NETWORKS.items():
        x, labels = torch.randn(batch, channels, width, width), torch.randint(0, 10, (batch,))
        steps = {act: _step(models.create(name, activation=act), x, labels) for act in ("relu", "gelu", "hp1")}
        for act in ("relu", "hp1"):
            module = models.create(name, activation=act)
            module.compile(fullgraph=True, dynamic=True)
            steps[f"{act}, compiled"] = _step(module, x, labels)
        found[name] = medians(steps, max(5, rounds // (1 if name == "lenet" else 4)))
    return found


def _step(model: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x), labels))
        optimizer.step()

    return run
