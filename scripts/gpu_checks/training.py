"""The training kernels through opau_onnx.nn: the CPU kernels' bits, the same sums each time, CUDA graphs, time."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpu_checks.device import DTYPES, Gpu
from gpu_checks.device import Cpu as Dry
from gpu_checks.kernels import cases, coefficients, differing, inputs
from opau_onnx.core.spec import Config
from opau_onnx.nn import HP1, OrthogonalPade, implementation, kernels

ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


def run(target: Gpu | Dry, *, few: bool) -> dict[str, Any]:
    if target.path is not None:
        os.environ["OPAU_LIBRARY"] = str(target.path)
    failures: list[str] = []
    if not target.dry and implementation().cuda:
        return {"passed": False, "failures": [f"no kernels: {implementation().cuda}"], "compared": {}, "times": []}
    counts: Counter[str] = Counter()
    for name, dtype in DTYPES.items():
        for config, sharing in cases(few):
            if sharing.affine:
                continue
            values, _ = coefficients(config, sharing)
            wrong = _differences(target, config, dtype, values, sharing.shape)
            counts[f"{name}, {sharing.name}"] += 1
            failures += [f"{name}, {config}, {sharing.name}: {what}" for what in wrong]
    failures += _graph(target)
    return {"passed": not failures, "compared": dict(counts), "failures": failures[:50], "times": _times(target, few)}


def _differences(target: Gpu | Dry, config: Any, dtype: torch.dtype, values: Any, shape: tuple[int, ...]) -> list[str]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    count = int(np.prod(shape))
    x = inputs(config, dtype, count).nan_to_num(1.0, 2.0, -2.0).clamp(-1e4, 1e4).reshape(shape)
    g = torch.linspace(-1, 1, count).to(dtype).reshape(shape)
    c, d = (torch.from_numpy(np.asarray(v)).to(wide) for v in values)
    here = kernels.forward(config, x, c, d), *kernels.backward(config, x, c, d, g, True, True)
    given = x, c, d, g
    x, c, d, g = (t.to(target.name) for t in given)
    there = kernels.forward(config, x, c, d), *kernels.backward(config, x, c, d, g, True, True)
    again = kernels.backward(config, x, c, d, g, True, True)
    wrong = []
    magnitudes = functools.lru_cache(lambda what: _magnitudes(config, *given)[what])
    for what, want, found in zip(("y", "dx", "dc", "dd"), here, there, strict=True):
        assert want is not None
        assert found is not None
        if what in ("y", "dx"):
            if count := differing(found.cpu(), want):
                wrong.append(f"{what}: {count} of {want.numel()} elements have other bits")
        elif not _near(found.cpu(), want) and not _near(found.cpu(), want, magnitudes(what)):
            wrong.append(f"{what} is {found.cpu().tolist()} for {want.tolist()}"[:300])
    if any(differing(a, b) for a, b in zip(there[1:], again, strict=True) if a is not None and b is not None and a.numel()):
        wrong.append("the gradients differ from call to call")
    return wrong


def _near(found: Tensor, want: Tensor, magnitude: Tensor | None = None) -> bool:
    """Within what the order of additions may change: by the sum of the terms' magnitudes where it is given, else roughly."""
    if magnitude is not None:
        close = (found - want).abs() <= 64 * ROUNDOFF[want.dtype] * magnitude
        return bool((close | (found.isnan() & want.isnan())).all())
    scale = float(want.nan_to_num(0, 0, 0).abs().max()) if want.numel() else 0.0
    return torch.allclose(found, want, rtol=1e-4, atol=4096 * ROUNDOFF[want.dtype] * scale, equal_nan=True)


def _magnitudes(config: Config, x: Tensor, c: Tensor, d: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Sums of the magnitudes of what the coefficients' gradients are sums of, from a row of coefficients for each element."""
    count, size = x.numel(), [1] * x.ndim
    row = torch.zeros(1, dtype=torch.int64)
    if config.groups > 1:
        channels = x.shape[config.axis]
        size[config.axis] = channels
        row = torch.arange(config.groups).repeat_interleave(channels // config.groups).reshape(size)
    row = row.expand(x.shape).flatten()
    each = dataclasses.replace(config, groups=count, axis=1)
    c_rows, d_rows = (t[row] if t.ndim > 1 else t.expand(count, -1).contiguous() for t in (c, d))
    terms = kernels.backward(each, x.reshape(1, -1), c_rows, d_rows, g.reshape(1, -1), True, True)[1:]
    found = {}
    for what, given, term in zip(("dc", "dd"), (c, d), terms, strict=True):
        assert term is not None
        summed = torch.zeros(config.groups, term.shape[-1], dtype=term.dtype).index_add_(0, row, term.abs())
        found[what] = summed if given.ndim > 1 else summed.sum(0)
    return found


def _graph(target: Gpu | Dry) -> list[str]:
    """Forward and backward, captured and replayed on other values."""
    if target.dry:
        return []
    module, x = HP1(device="cuda"), torch.randn(10_007, device="cuda")
    c, d, g = module.numerator.detach(), module.denominator.detach(), torch.ones_like(x)
    kernels.backward(module.config, x, c, d, g, True, True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = kernels.forward(module.config, x, c, d), *kernels.backward(module.config, x, c, d, g, True, True)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    want = kernels.forward(module.config, x, c, d), *kernels.backward(module.config, x, c, d, g, True, True)
    return ["a replayed graph differs"] if any(differing(a, b) for a, b in zip(got, want, strict=True)) else []  # type: ignore[arg-type]


def _times(target: Gpu | Dry, few: bool) -> list[dict[str, Any]]:
    """Forward and backward over those of nn.ReLU, by dtype and size of the input in MB."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for megabytes in (1,) if few else (4, 64, 512):
            count = megabytes * 2**20 // torch.empty(0, dtype=dtype).element_size()
            flat, channels = (count,), (count // 4096, 64, 8, 8)
            row: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "megabytes": megabytes}
            base = target.seconds(_step(nn.ReLU(), flat, dtype, target.name), 3)
            row["relu_us"] = round(base * 1e6, 1)
            for name, module, shape in (
                ("nn.GELU", nn.GELU(), flat),
                ("HP-1", HP1(), flat),
                ("HP-1, 8 groups", OrthogonalPade(groups=8), channels),
                ("HP-1, row for each channel", OrthogonalPade(groups=64), channels),
            ):
                row[name] = round(target.seconds(_step(module.to(target.name), shape, dtype, target.name), 3) / base, 3)
            rows.append(row)
    return rows


def _step(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Callable[[], Any]:
    x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    g = torch.ones_like(x)
    inputs = [x, *module.parameters()]
    return lambda: torch.autograd.grad(module(x), inputs, g)
