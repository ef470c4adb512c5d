"""Every kernel against the CPU's bits: bases, forms, degrees, sharing, dtypes, alignments, streams, graphs, large tensors."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_checks.device import DTYPES, Coefficients, Cpu, Gpu, cpu_run
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config, ordinary_limit
from opau_onnx.native import extent

DEGREES = ((5, 4), (0, 0), (3, 2), (9, 8), (16, 16))
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Sharing:
    """How coefficients are shared, and the shape of a tensor for it; ``mixed`` has one row for the numerator."""

    name: str
    groups: int
    axis: int
    shape: tuple[int, ...]
    mixed: bool = False
    affine: bool = False


SHARINGS = (
    Sharing("one row", 1, 1, (3, 4099)),
    Sharing("few groups, channels first", 3, 1, (2, 6, 17, 19)),
    Sharing("few groups, channels last", 4, -1, (7, 33, 20)),
    Sharing("row for each channel, first", 48, 1, (3, 48, 5, 7)),
    Sharing("row for each channel, last", 48, -1, (129, 48)),
    Sharing("many rows, channels first", 1030, 1, (2, 1030, 9)),
    Sharing("many rows, channels last", 1030, -1, (11, 1030)),
    Sharing("shared numerator", 5, 1, (3, 10, 37), mixed=True),
    Sharing("scale and shift", 6, 1, (3, 6, 5, 41), affine=True),
    Sharing("scale and shift, many rows", 700, -1, (13, 700), affine=True),
)


def coefficients(config: Config, sharing: Sharing) -> tuple[Coefficients, Coefficients | None]:
    """Eighths with either sign, from the configuration's own name, and scale and shift where they are asked for."""
    rng = np.random.default_rng(zlib.crc32(f"{config}{sharing.name}".encode()))

    def draw(*shape: int) -> Any:
        return rng.integers(1, 17, shape) / 8.0 * rng.choice([-1.0, 1.0], shape)

    rows = () if config.groups == 1 else (config.groups,)
    c_rows = () if sharing.mixed else rows
    values = draw(*c_rows, config.numerator_size), draw(*rows, config.denominator_size)
    return values, (draw(config.groups), draw(config.groups)) if sharing.affine else None


def inputs(config: Config, dtype: torch.dtype, count: int) -> Tensor:
    """Ordinary numbers, all magnitudes, both sides of X0, zeros, subnormals, infinities and NaN, in a fixed order."""
    info = torch.finfo(dtype)
    limit = min(ordinary_limit(config.top), info.max / 4)
    special = [
        0.0,
        -0.0,
        1.0,
        info.max,
        info.tiny,
        info.tiny / 4,
        limit,
        limit * (1 + info.eps),
        2 * limit,
        float("inf"),
        float("nan"),
    ]
    rng = np.random.default_rng(0)
    sizes = np.exp2(rng.uniform(np.log2(info.tiny), np.log2(info.max), 512))
    values = np.concatenate([special, np.negative(special), sizes, -sizes, rng.uniform(-4, 4, 1024), rng.uniform(-64, 64, 512)])
    return torch.from_numpy(np.resize(rng.permutation(values), count)).to(dtype)


def differing(actual: Tensor, expected: Tensor) -> int:
    """Elements with other bits; NaN is NaN whatever its bits."""
    kind = BITS[actual.element_size()]
    same = (actual.view(kind) == expected.view(kind)) | (actual.isnan() & expected.isnan())
    return int((~same).sum())


def cases(few: bool) -> Iterator[tuple[Config, Sharing]]:
    bases = ("hermite_e", "laguerre") if few else tuple(BASES)
    for basis in bases:
        for form in ("abs_terms", "clamped") if few else FORMS:
            for degrees in DEGREES[:1] if few else DEGREES:
                yield Config(basis, form, degrees), SHARINGS[0]
            for degrees in DEGREES[:1] if few else ((5, 4), (9, 8)):
                for sharing in SHARINGS[1:]:
                    yield Config(basis, form, degrees, sharing.groups, sharing.axis), sharing


def run(target: Gpu | Cpu, *, few: bool) -> dict[str, Any]:
    failures: list[str] = []
    counts: Counter[str] = Counter()
    for name, dtype in DTYPES.items():
        for config, sharing in cases(few):
            values, affine = coefficients(config, sharing)
            x = inputs(config, dtype, int(np.prod(sharing.shape)))
            size = extent(config, sharing.shape)
            expected = torch.empty_like(x)
            cpu_run(target.library, config, values, name, affine)(x, expected, size)
            there = x.to(target.name)
            found = torch.full_like(there, 7.0)
            target.run(config, values, name, affine)(there, found, size)
            wrong = differing(found.cpu(), expected)
            counts[f"{name}, {sharing.name}"] += 1
            if wrong:
                failures.append(f"{name}, {config}, {sharing.name}: {wrong} of {x.numel()} elements have other bits")
    more = {
        "placements": placements(target, few), "streams": streams(target), "graph": graph(target),
        "beyond_2_31": large(target, few),
    }  # fmt: skip
    failures += [text for found in more.values() for text in found.pop("failures")]
    return {"passed": not failures, "compared": dict(counts), "failures": failures[:50], **more}


HP1 = Config()


def _hp1(target: Gpu | Cpu, name: str) -> tuple[Any, Any]:
    values, _ = coefficients(HP1, SHARINGS[0])
    return target.run(HP1, values, name), cpu_run(target.library, HP1, values, name, None)


def placements(target: Gpu | Cpu, few: bool) -> dict[str, Any]:
    """Every offset of x and y within 16 bytes, odd sizes, in place; nothing is written beside y."""
    failures, count = [], 0
    for name, dtype in DTYPES.items():
        there, here = _hp1(target, name)
        pack = 16 // torch.empty(0, dtype=dtype).element_size()
        for size in (1, 7, 31) if few else (1, 2, 7, 31, 257, 4099):
            for at in range(0, pack, 3 if few else 1):
                for to in {at, (at + 1) % pack, 0}:
                    x = torch.zeros(size + 2 * pack, dtype=dtype)
                    x[at : at + size] = inputs(HP1, dtype, size)
                    expected = torch.full((size + 2 * pack,), 7.0, dtype=dtype)
                    here(x[at : at + size], expected[to : to + size], (1, 1, size))
                    y = torch.full_like(expected, 7.0, device=target.name)
                    there(x.to(target.name)[at : at + size], y[to : to + size], (1, 1, size))
                    count += 1
                    if differing(y.cpu(), expected):
                        failures.append(f"{name}: {size} elements from offset {at} to {to}")
        x = inputs(HP1, dtype, 4099)
        expected = torch.empty_like(x)
        here(x, expected, (1, 1, 4099))
        y = x.to(target.name)
        there(y, y, (1, 1, 4099))
        if differing(y.cpu(), expected):
            failures.append(f"{name}: in place")
    return {"tried": count, "failures": failures}


def streams(target: Gpu | Cpu) -> dict[str, Any]:
    """Four streams at once; coefficients that were uploaded must be there for streams that do not wait for the default one."""
    if target.dry:
        return {"tried": 0, "failures": []}
    failures = []
    sharing = SHARINGS[5]
    config = Config(groups=sharing.groups, axis=sharing.axis)
    values, _ = coefficients(config, sharing)
    x = inputs(config, torch.float32, int(np.prod(sharing.shape)))
    size, expected = extent(config, sharing.shape), torch.empty_like(x)
    cpu_run(target.library, config, values, "float32", None)(x, expected, size)
    there = x.cuda()
    torch.cuda.synchronize()
    results = []
    for _ in range(16):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        y = torch.empty_like(there)
        torch.cuda.synchronize()
        work = target.run(config, values, "float32")  # uploads anew
        with torch.cuda.stream(side):
            work(there, y, size)
        results.append((y, work))
    torch.cuda.synchronize()
    wrong = sum(bool(differing(y.cpu(), expected)) for y, _ in results)
    if wrong:
        failures.append(f"{wrong} of {len(results)} runs on streams of their own differ")
    return {"tried": len(results), "failures": failures}


def graph(target: Gpu | Cpu) -> dict[str, Any]:
    """A captured graph, replayed on new inputs."""
    if target.dry:
        return {"tried": 0, "failures": []}
    failures = []
    there, here = _hp1(target, "float32")
    x = torch.zeros(10_007, device="cuda")
    y = torch.empty_like(x)
    there(x, y, (1, 1, x.numel()))
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        there(x, y, (1, 1, x.numel()))
    for turn in range(3):
        new = inputs(HP1, torch.float32, x.numel()).roll(turn)
        expected = torch.empty_like(new)
        here(new, expected, (1, 1, new.numel()))
        x.copy_(new)
        captured.replay()
        if differing(y.cpu(), expected):
            failures.append(f"replay {turn} of a captured graph differs")
    return {"tried": 3, "failures": failures}


def large(target: Gpu | Cpu, few: bool) -> dict[str, Any]:
    """More than 2**31 elements of float16, in one row and with a row for each of two groups; ends and borders are compared."""
    if target.dry or few:
        return {"tried": 0, "failures": []}
    failures = []
    count = 2**31 + 4098
    for groups in (1, 2):
        config = Config(groups=groups, axis=0)
        values, _ = coefficients(config, SHARINGS[0])
        x = inputs(config, torch.float16, 2**20).cuda().repeat(count // 2**20 + 1)[:count]
        y = torch.empty_like(x)
        target.run(config, values, "float16")(x, y, extent(config, (groups, count // groups)))
        part = [
            (0, 2**16),
            (2**30 - 2**15, 2**30 + 2**15),
            (2**31 - 2**15, 2**31 + 2**12),
            (count // 2 - 2**15, count // 2 + 2**15),
        ]
        part.append((count - 2**16, count))
        for low, high in part:
            given = x[low:high].cpu()
            expected = torch.empty_like(given)
            for group in range(groups):
                own = Config()
                single = tuple(v[group] if v.ndim > 1 else v for v in values)
                result = torch.empty_like(given)
                cpu_run(target.library, own, single, "float16", None)(given, result, (1, 1, given.numel()))
                mine = torch.arange(low, high) // (count // groups) == group
                expected[mine] = result[mine]
            wrong = differing(y[low:high].cpu(), expected)
            if wrong:
                failures.append(f"{groups} groups, elements {low} to {high}: {wrong} differ")
        del x, y
    return {"tried": 2, "elements": count, "failures": failures}
