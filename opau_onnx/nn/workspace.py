"""Memory for the intermediate results of a block that is kept from block to block and from call to call.

The system's allocator gives large pieces back as soon as they are free, and taking fresh pages costs more than the arithmetic.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

SHAPES = 8
"""Block shapes whose views are kept."""


class Workspace:
    """CPU tensors of a block's shape, handed out in turn; :meth:`start` begins a block and makes all of them free."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.capacity = 0
        self.buffers: list[Tensor] = []
        self.views: dict[torch.Size, list[Tensor]] = {}
        self.current: list[Tensor] = []
        self.shape = torch.Size()
        self.count = self.used = 0

    def start(self, like: Tensor) -> None:
        """Begin a block of this tensor's shape."""
        shape, count = like.shape, like.numel()  # torch.Size.numel takes 20 times as long
        if count > self.capacity:
            self.capacity = count
            self.buffers, self.views = [], {}
        if len(self.views) > SHAPES:
            self.views = {}
        self.current = self.views.setdefault(shape, [])
        self.shape, self.count, self.used = shape, count, 0

    def take(self) -> Tensor:
        """The next tensor, its contents undefined."""
        if self.used == len(self.current):
            self._grow()
        self.used += 1
        return self.current[self.used - 1]

    def _grow(self) -> None:
        with torch.inference_mode(False):  # an inference tensor could not be used outside that mode
            if self.used == len(self.buffers):
                self.buffers.append(torch.empty(self.capacity, dtype=self.dtype))
            self.current.append(self.buffers[self.used][: self.count].view(self.shape))


_kept = threading.local()


def borrow(dtype: torch.dtype) -> Workspace:
    """This thread's workspace; a new one where it is lent already or of another dtype."""
    kept: Workspace | None = getattr(_kept, "workspace", None)
    _kept.workspace = None
    return kept if kept is not None and kept.dtype == dtype else Workspace(dtype)


def give_back(workspace: Workspace) -> None:
    """Keep it for this thread's next call. Left out after an exception: the memory is freed then."""
    _kept.workspace = workspace
