"""How a tensor is cut: a dense view for the coefficients, and blocks that fit the cache.

Elementwise torch operations on a whole large tensor stream it through memory once for each operation; on blocks they stay in
the cache. Blocks are still large enough for torch to split each over its threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from opau_onnx.core.spec import Config

BLOCK = 131072
"""Least elements in a block: 512 KiB of float32. Smaller ones cost more in calls than they save in the cache."""

THREAD_SHARE = 32768
"""Elements for each thread: torch gives no thread less."""

ACCELERATOR_BLOCK = 1 << 24
"""Elements in a block elsewhere, where blocks only bound the memory of the intermediate results."""

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Layout:
    """A permutation of the dimensions that makes the tensor contiguous, and the shape that the blocks are cut from.

    Attributes:
        order: the permutation; None for the order of the dimensions themselves.
        shape: (elements,) where one row of coefficients serves all, else (outer, groups, inner).
    """

    order: tuple[int, ...] | None
    shape: tuple[int, ...]

    @staticmethod
    def of(x: Tensor, config: Config) -> Layout:
        """Keep the order in which x lies in memory, as channels_last does, so that no copy is needed."""
        order = None if x.is_contiguous() else _dense_order(x)
        if config.groups == 1:
            return Layout(order, (x.numel(),))
        axis = config.check_input(tuple(x.shape))
        axis = axis if order is None else order.index(axis)
        sizes = [x.shape[i] for i in order or range(x.dim())]
        inner = sizes[axis] // config.groups * math.prod(sizes[axis + 1 :])
        return Layout(order, (math.prod(sizes[:axis]), config.groups, inner))

    def flatten(self, x: Tensor) -> Tensor:
        """x in this layout's shape; a view where x lies so in memory, else a copy."""
        return x.reshape(self.shape) if self.order is None else x.permute(self.order).reshape(self.shape)

    def restore(self, flat: Tensor, like: Tensor) -> Tensor:
        """The inverse of :meth:`flatten`, for a contiguous ``flat``."""
        if self.order is None:
            return flat.view(like.shape)
        inverse = [0] * len(self.order)
        for position, dimension in enumerate(self.order):
            inverse[dimension] = position
        return flat.view([like.shape[i] for i in self.order]).permute(inverse)


def _dense_order(x: Tensor) -> tuple[int, ...] | None:
    strides = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda i: (-strides[i], i)))
    return order if x.permute(order).is_contiguous() else None


def block_size(device: torch.device) -> int:
    """Elements in a block on this device."""
    return max(BLOCK, THREAD_SHARE * torch.get_num_threads()) if device.type == "cpu" else ACCELERATOR_BLOCK


def blocks(shape: tuple[int, ...], size: int) -> Iterator[Index]:
    """Cut a layout's shape into pieces of about ``size`` elements that hold every group."""
    if len(shape) == 1:
        for i in range(0, shape[0], size):
            yield (slice(i, i + size),)
        return
    outer, group, inner = shape
    if not outer * inner:
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
