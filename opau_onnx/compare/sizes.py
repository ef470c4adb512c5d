"""Input batches of other sizes along every axis that a file declares dynamic, each axis alone and all together.

A traced file may hold for some sizes only, without a word: ``if width % 2: pad`` traced at an even width is gone. So a file is
compared at sizes around the example's, at small and odd ones and beyond the limits that torch.export found. Sizes at which the
model itself fails say nothing about the file; which they are is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opau_onnx.compare.batches import drawn
from opau_onnx.graph.axes import Axes

SMALL = (1, 2, 3, 5)
LARGEST = 2**26
"""Elements of an input beyond which a size is not tried."""
Limits = Mapping[str, Sequence[int]]
"""Name of an axis -> sizes just outside of what torch.export says it holds for."""


class SizeBatches(NamedTuple):
    """Result of :func:`size_batches`: name and inputs of each batch, and the sizes at which the model itself fails."""

    batches: list[tuple[str, tuple[Tensor, ...]]]
    refused: list[str]


def size_batches(
    inputs: Sequence[Tensor], axes: Axes, seed: int, runs: Callable[[Sequence[Tensor]], bool], limits: Limits | None = None
) -> SizeBatches:
    """Random batches of other sizes.

    Args:
        inputs: the example's.
        axes: the dynamic ones; axes of one name have one size.
        seed: of the random numbers.
        runs: whether the model itself runs on a batch.
        limits: further sizes to try.
    """
    generator = torch.Generator().manual_seed(seed)
    own = {name: int(inputs[i].shape[axis]) for i, names in axes.items() for axis, name in names.items() if name.isidentifier()}
    found, refused = list[tuple[str, tuple[Tensor, ...]]](), list[str]()
    for sizes in _choices(own, limits or {}):
        label = ", ".join(f"{name} {size}" for name, size in sizes.items())
        shapes = [[sizes.get(axes.get(i, {}).get(a, ""), n) for a, n in enumerate(x.shape)] for i, x in enumerate(inputs)]
        if any(torch.Size(shape).numel() > LARGEST for shape in shapes):
            continue
        batch = tuple(drawn(x, shape, 1.0, generator) for x, shape in zip(inputs, shapes, strict=True))
        if runs(batch):
            found.append((f"random, {label}", batch))
        else:
            refused.append(label)
    return SizeBatches(found, refused)


def _choices(own: Mapping[str, int], limits: Limits) -> Iterator[dict[str, int]]:
    """Each axis alone, then all together; sizes that leave all as they are excluded."""
    rules: list[Callable[[int], int]] = [lambda n: n - 1, lambda n: n + 1, lambda n: 2 * n, lambda n: n // 2, lambda n: n // 4]
    seen: set[tuple[tuple[str, int], ...]] = set()
    for name, n in own.items():
        sizes = sorted({*(rule(n) for rule in rules), *SMALL, *limits.get(name, ())} - {n})
        for size in sizes:
            if size > 0:
                seen.add(((name, size),))
                yield {name: size}
    if len(own) > 1:
        together = [{name: rule(n) for name, n in own.items()} for rule in rules]
        together += [dict.fromkeys(own, size) for size in SMALL]
        for sizes_of in together:
            key = tuple(sizes_of.items())
            if key not in seen and min(sizes_of.values()) > 0 and sizes_of != own:
                seen.add(key)
                yield sizes_of


def module_runs(model: Callable[..., object]) -> Callable[[Sequence[Tensor]], bool]:
    """Test that tells for a batch whether a torch module runs on it."""

    def runs(batch: Sequence[Tensor]) -> bool:
        try:
            with torch.no_grad():
                model(*batch)
        except Exception:  # the model's own code
            return False
        return True

    return runs
