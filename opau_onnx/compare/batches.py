"""Input batches for comparisons: the user's samples, or the example inputs and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opau_onnx.config import ToleranceConfig
from opau_onnx.errors import ValidationError
from opau_onnx.graph.axes import Axes
from opau_onnx.io.samples import Samples

SCALES = (0.1, 1.0, 10.0)
"""Of the random inputs, in units of the example's spread."""


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes:
        name: what they are.
        start: place of the first row in the user's data; None for other batches.
        inputs: one tensor for each input of the model.
        labels: where they are known.
    """

    name: str
    start: int | None
    inputs: tuple[Tensor, ...]
    labels: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        return next((int(x.shape[0]) for x in self.inputs if x.dim()), 1)


@dataclass(frozen=True)
class Batches:
    """All that one file is compared on.

    Attributes:
        source: what they are, in words.
        samples: rows in all batches together.
        left_out: rows of the data that fill no batch of a file whose batch is fixed.
        labels: whether they are known.
    """

    source: str
    parts: Sequence[Batch]
    samples: int
    left_out: int
    labels: bool


def of_examples(
    inputs: Sequence[Tensor], axes: Axes, options: ToleranceConfig, more: Sequence[tuple[str, tuple[Tensor, ...]]] = ()
) -> Batches:
    """The example inputs, random batches and ``more`` of them, as opau-export's check has them."""
    parts = [Batch(name, None, rows) for name, rows in [*random_batches(inputs, axes, options), *more]]
    return Batches("the example input and random inputs", parts, sum(b.rows for b in parts), 0, False)


def random_batches(inputs: Sequence[Tensor], axes: Axes, options: ToleranceConfig) -> list[tuple[str, tuple[Tensor, ...]]]:
    """The example input, and random ones of several scales and, where axis 0 is dynamic, batch sizes."""
    generator = torch.Generator().manual_seed(options.seed)
    found = [("example input", tuple(inputs))]
    dynamic = any(0 in names for names in axes.values())
    own = next((x.shape[0] for x in inputs if x.dim()), 1)
    sizes = sorted({1, 2, options.samples}) if dynamic else [own]
    for scale in SCALES:
        for size in sizes:
            batch = tuple(_random(x, size if 0 in axes.get(i, {}) else None, scale, generator) for i, x in enumerate(inputs))
            found.append((f"random, scale {scale:g}, batch {size}", batch))
    return found


def _random(x: Tensor, size: int | None, scale: float, generator: torch.Generator) -> Tensor:
    shape = list(x.shape)
    if size is not None:
        shape[0] = size
    return drawn(x, shape, scale, generator)


def drawn(x: Tensor, shape: Sequence[int], scale: float, generator: torch.Generator) -> Tensor:
    """Random numbers of another shape, of an example's kind and, times ``scale``, of its spread."""
    if x.is_floating_point():
        spread = float(x.double().std(correction=0)) if x.numel() else 0.0
        spread = spread if 0.0 < spread < float("inf") else 1.0  # not for a constant, an infinite or a NaN example
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * spread * scale).to(x.dtype)
    if x.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    low, high = (int(x.min()), int(x.max())) if x.numel() else (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(x.dtype)


def of_samples(samples: Samples, axes: Axes, size: int, fixed: int | None) -> Batches:
    """The user's data in runs of ``size`` rows, or of the size that the file fixes.

    Raises:
        ValidationError: fewer rows than the file's batch, or numbers that torch does not know.
    """
    total, size = len(samples), fixed or size
    if fixed and total < fixed:
        raise ValidationError(f"{samples.source} holds {total} samples, the file takes {fixed} at once; give at least as many")
    used = total - total % fixed if fixed else total
    return Batches(samples.source, _Parts(samples, used, size), used, total - used, samples.labels is not None)


@dataclass(frozen=True)
class _Parts(Sequence[Batch]):
    """Batches of a data set that are made when they are looked at."""

    samples: Samples
    used: int
    size: int

    def __len__(self) -> int:
        return -(-self.used // self.size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = index * self.size, min((index + 1) * self.size, self.used)
        labels = None if self.samples.labels is None else self.samples.labels[start:end]
        inputs = tuple(_tensor(x[start:end], self.samples.source) for x in self.samples.inputs)
        return Batch(f"samples {start} to {end - 1}", start, inputs, labels)


def _tensor(array: Any, source: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))  # a copy: the array may be read-only
    except TypeError:
        raise ValidationError(f"{source} holds {array.dtype}, which torch has no tensors of") from None
