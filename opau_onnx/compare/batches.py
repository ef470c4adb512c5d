"""What the runtimes are compared on, in batches: the user's samples, or the example inputs and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opau_onnx.compare import validation
from opau_onnx.errors import ValidationError
from opau_onnx.graph.axes import Axes
from opau_onnx.io.samples import Samples


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


def of_examples(inputs: Sequence[Tensor], axes: Axes, options: validation.ToleranceConfig) -> Batches:
    """The example inputs and random batches, as opau-export's check has them."""
    parts = [Batch(name, None, rows) for name, rows in validation.batches(inputs, axes, options)]
    return Batches("the example input and random inputs", parts, sum(b.rows for b in parts), 0, False)


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
