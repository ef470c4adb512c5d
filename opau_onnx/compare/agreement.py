"""Top-k agreement: how often two models predict the same class, and how often each is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core.reports import Reported

LISTED = 1000
"""So many samples are listed at most; all are counted."""


@dataclass(frozen=True)
class Disagreement:
    """A sample whose label differs.

    Attributes:
        sample: its place in the data.
        label: the true one, None where it is not known.
        expected, runtime: the labels.
        expected_margin: the reference's output of its own label less that of the runtime's: how sure it was.
        runtime_margin: the runtime's output of its own label less that of the reference's.
    """

    sample: int
    label: int | None
    expected: int
    runtime: int
    expected_margin: float
    runtime_margin: float


@dataclass
class TopKAgreement(Reported):
    """Predictions of a runtime against those of its reference.

    Attributes:
        samples: all.
        known: those whose label is known.
        right, among_five: of those, how many have the largest output, or one of the five largest, at their label.
        classes: number of outputs.
        agreeing: samples with the reference's label.
        different: the first :data:`LISTED` others.
    """

    hidden = ("known", "right", "among_five", "agreeing")
    derived = ("top1", "top5", "agreement", "differing")

    samples: int = 0
    known: int = 0
    right: int = 0
    among_five: int = 0
    classes: int = 0
    agreeing: int = 0
    different: list[Disagreement] = field(default_factory=list)

    def add(self, start: int, outputs: Any, expected: Any, labels: npt.NDArray[np.int64] | None) -> None:
        """Count a batch.

        Args:
            start: place of its first sample.
            outputs, expected: the runtime's and the reference's, shape (N, classes).
            labels: shape (N,), where they are known.
        """
        outputs, expected = (np.asarray(v, dtype=np.float64) for v in (outputs, expected))
        rows = np.arange(len(outputs))
        own, wanted = outputs.argmax(axis=1), expected.argmax(axis=1)
        self.samples, self.classes = self.samples + len(rows), outputs.shape[1]
        self.agreeing += int(np.count_nonzero(own == wanted))
        if labels is not None:
            self.known += len(rows)
            self.right += int(np.count_nonzero(own == labels))
            better = outputs > outputs[rows, labels][:, np.newaxis]
            self.among_five += int(np.count_nonzero(better.sum(axis=1) < 5))
        for i in np.flatnonzero(own != wanted)[: LISTED - len(self.different)]:
            a, b = int(wanted[i]), int(own[i])
            label = None if labels is None else int(labels[i])
            margins = float(expected[i, a] - expected[i, b]), float(outputs[i, b] - outputs[i, a])
            self.different.append(Disagreement(start + int(i), label, a, b, *margins))

    @property
    def top1(self) -> float | None:
        """Share of the known labels that the runtime predicts; None where none is known."""
        return self.right / self.known if self.known else None

    @property
    def top5(self) -> float | None:
        """The same for the five largest outputs; None where there are no more than five."""
        return self.among_five / self.known if self.known and self.classes > 5 else None

    @property
    def differing(self) -> int:
        """Samples with another label than PyTorch's."""
        return self.samples - self.agreeing

    @property
    def agreement(self) -> float:
        """Share of the samples with PyTorch's label."""
        return self.agreeing / self.samples if self.samples else 1.0


def are_classes(values: Any) -> bool:
    """True where an output holds one number for each class: shape (N, classes)."""
    return np.ndim(values) == 2 and np.shape(values)[1] > 1


def agreement_of(actual: Any, expected: Any, labels: npt.NDArray[np.int64] | None = None) -> TopKAgreement:
    """The agreement over all samples at once, shapes (N, classes); ``labels`` has shape (N,)."""
    found = TopKAgreement()
    found.add(0, actual, expected, labels)
    return found
