"""How a tensor is cut: a dense view (outer, group, inner) for the coefficients, and blocks that fit the cache.

Elementwise torch operations on a whole large tensor stream it through memory once for each operation; on blocks of
:data:`BLOCK` elements they stay in the cache. Blocks are still large enough for torch to split each over its threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from opau_onnx.spec import Config

BLOCK = 65536
"""Elements in a block: 256 KiB of float32. Chosen by scripts/bench_activation.py."""

ACCELERATOR_BLOCK = 1 << 24
"""Elements in a block elsewhere, where blocks only bound the memory of the intermediate results."""

Index = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Layout:
    """A permutation of the dimensions that makes the tensor contiguous, and its (outer, group, inner) shape there."""

    order: tuple[int, ...]
    shape: tuple[int, int, int]

    @staticmethod
    def of(x: Tensor, config: Config) -> Layout:
        """Keep the order in which x lies in memory, as channels_last does, so that no copy is needed."""
        order = tuple(sorted(range(x.dim()), key=lambda i: (-x.stride(i), i)))
        if not x.permute(order).is_contiguous():
            order = tuple(range(x.dim()))
        axis = order.index(config.check_input(tuple(x.shape))) if config.groups > 1 else 0
        sizes = [x.shape[i] for i in order]
        if config.groups == 1:
            return Layout(order, (1, 1, x.numel()))
        inner = sizes[axis] // config.groups * math.prod(sizes[axis + 1 :])
        return Layout(order, (math.prod(sizes[:axis]), config.groups, inner))

    def flatten(self, x: Tensor) -> Tensor:
        """x as (outer, group, inner); a view where x lies so in memory, else a copy."""
        return x.permute(self.order).reshape(self.shape)

    def restore(self, flat: Tensor, like: Tensor) -> Tensor:
        """The inverse of :meth:`flatten`, for a contiguous ``flat``."""
        inverse = [0] * len(self.order)
        for position, dimension in enumerate(self.order):
            inverse[dimension] = position
        return flat.reshape([like.shape[i] for i in self.order]).permute(inverse)


def blocks(shape: tuple[int, int, int], device: str = "cpu") -> Iterator[Index]:
    """Cut (outer, group, inner) into pieces of about :data:`BLOCK` elements that hold every group."""
    size = BLOCK if device == "cpu" else ACCELERATOR_BLOCK
    outer, group, inner = shape
    if not outer * group * inner:
        return
    whole = group * inner
    rows = max(1, size // whole)
    columns = inner if whole <= size else max(1, size // group)
    for i in range(0, outer, rows):
        for j in range(0, inner, columns):
            yield slice(i, i + rows), slice(None), slice(j, j + columns)


def compute_dtype(x: torch.dtype, coefficients: torch.dtype) -> torch.dtype:
    """float64 where the input or the coefficients are, else float32."""
    return torch.float64 if torch.float64 in (x, coefficients) else torch.float32
