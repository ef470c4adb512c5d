"""Ratios to a device-to-device copy of the same bytes, within one run, next to what torch offers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_checks.device import DTYPES, Cpu, Gpu
from gpu_checks.kernels import SHARINGS, Sharing, coefficients
from opau_onnx.core.spec import Config
from opau_onnx.native import extent

MB = 2**20
SIZES = (4, 64, 512)
FAMILIES: dict[str, tuple[Config, Sharing]] = {
    "HP-1 (hermite, closed form)": (Config(), SHARINGS[0]),
    "PAU (power)": (Config("power", "abs_terms"), SHARINGS[0]),
    "legendre (5, 4) (symmetric)": (Config("legendre"), SHARINGS[0]),
    "laguerre (9, 8) (general)": (Config("laguerre", degrees=(9, 8)), SHARINGS[0]),
    "HP-1, 8 groups of 64 channels first": (Config(groups=8, axis=1), Sharing("bench", 8, 1, (64,))),
    "HP-1, row for each of 64 channels first": (Config(groups=64, axis=1), Sharing("bench", 64, 1, (64,))),
    "HP-1, row for each of 64 channels last": (Config(groups=64, axis=-1), Sharing("bench", 64, -1, (64,))),
    "HP-1, row for each of 768 channels last": (Config(groups=768, axis=-1), Sharing("bench", 768, -1, (768,))),
}


def run(target: Gpu | Cpu, *, few: bool) -> dict[str, Any]:
    rows = []
    for dtype in ("float32",) if few else tuple(DTYPES):
        for megabytes in (1,) if few else SIZES:
            rows += _size(target, dtype, megabytes)
    return {"passed": True, "rows": rows, "launch": _launch(target)}


def _shape(config: Config, channels: int, count: int) -> tuple[int, ...]:
    if config.groups == 1:
        return (count,)
    if config.axis == -1:
        return (count // channels, channels)
    return (max(count // channels // 784, 1), channels, 784)


def _size(target: Gpu | Cpu, dtype: str, megabytes: int) -> list[dict[str, Any]]:
    kind = DTYPES[dtype]
    count = megabytes * MB // torch.empty(0, dtype=kind).element_size()
    times = max(2, min(50, 200 // megabytes))
    x = torch.randn(count, dtype=torch.float32).to(kind).to(target.name)
    y = torch.empty_like(x)

    def seconds(work: Callable[[], Any]) -> float:
        return target.seconds(work, times)

    copy = seconds(lambda: y.copy_(x))
    rows = []
    for name, (config, sharing) in FAMILIES.items():
        channels = sharing.shape[0] if config.groups > 1 else 1
        shape = _shape(config, channels, count)
        n = int(torch.Size(shape).numel())
        work, size = target.run(config, coefficients(config, sharing)[0], dtype), extent(config, shape)
        own = seconds(lambda work=work, n=n, size=size: work(x[:n], y[:n], size))  # type: ignore[misc]
        rows.append(_row(name, dtype, megabytes, own, copy, n / count))
    for name, other in _torch(few=target.dry or dtype != "float32" or megabytes != 64).items():
        try:
            rows.append(_row(name, dtype, megabytes, seconds(lambda other=other: other(x)), copy, 1.0))  # type: ignore[misc]
        except Exception as error:  # a compiler that is not there, memory
            rows.append(
                {"what": name, "dtype": dtype, "megabytes": megabytes, "not_run": f"{type(error).__name__}: {error}"[:200]}
            )
    again = seconds(lambda: y.copy_(x))
    rows.append(_row("copy, again", dtype, megabytes, again, copy, 1.0))
    return rows


def _row(what: str, dtype: str, megabytes: int, seconds: float, copy: float, share: float) -> dict[str, Any]:
    return {
        "what": what, "dtype": dtype, "megabytes": megabytes, "microseconds": round(seconds * 1e6, 2),
        "over_copy": round(seconds / (copy * share), 3), "gb_per_s": round(2 * megabytes * MB * share / seconds / 1e9, 1),
    }  # fmt: skip


def _torch(few: bool) -> dict[str, Callable[[Tensor], Any]]:
    found: dict[str, Callable[[Tensor], Any]] = {"torch relu": torch.relu, "torch gelu": torch.nn.functional.gelu}
    if not few:
        found |= {"formula, eager": _formula, "formula, torch.compile": torch.compile(_formula)}
    return found


def _formula(x: Tensor) -> Tensor:
    """HP-1 as one would write it, with coefficients of 1 and 0.5."""
    rows = [torch.ones_like(x), x]
    for n in range(1, 5):
        rows.append(x * rows[n] - n * rows[n - 1])
    bottom = 1.0 + 0.5 * (rows[1].abs() + rows[2].abs() + rows[3].abs() + rows[4].abs())
    return (rows[0] + rows[1] + rows[2] + rows[3] + rows[4] + rows[5]) / bottom


def _launch(target: Gpu | Cpu) -> dict[str, float]:
    """Microseconds at 1 Ki elements of float32: of a kernel in a graph, and of a call from Python."""
    work = target.run(Config(), coefficients(Config(), SHARINGS[0])[0], "float32")
    x = torch.zeros(1024, device=target.name)
    y = torch.empty_like(x)
    inside = target.seconds(lambda: work(x, y, (1, 1, 1024)), 100)
    relu = target.seconds(lambda: torch.relu(x), 100)
    target.synchronize()
    begin = time.perf_counter()
    for _ in range(200):
        work(x, y, (1, 1, 1024))
    call = (time.perf_counter() - begin) / 200
    target.synchronize()
    return {name: round(v * 1e6, 2) for name, v in (("in_graph", inside), ("relu_in_graph", relu), ("python_call", call))}
