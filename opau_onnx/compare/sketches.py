"""Sketches of activations' real inputs: exact range and count, quantiles and a histogram of a sample of its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.compare.hooks import Call, Key

BINS = 64
QUANTILES = (0.0005, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.9995)
SAMPLE = 200_000
"""So many inputs of each activation are kept at most."""


@dataclass
class InputSketch:
    """The inputs of one activation.

    Attributes:
        count, nonfinite: of all.
        low, high: of all finite ones.
        kept: the sample.
        shape: of the last batch.
    """

    count: int = 0
    nonfinite: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    kept: list[npt.NDArray[np.float64]] = field(default_factory=list)
    shape: tuple[int, ...] = ()

    def add(self, values: npt.NDArray[Any], room: int, rng: np.random.Generator) -> None:
        """Count a batch and keep at most ``room`` of its values."""
        self.shape, flat = values.shape, values.reshape(-1)
        finite = flat[np.isfinite(flat)]
        self.count += flat.size
        self.nonfinite += flat.size - finite.size
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
            chosen = finite if finite.size <= room else finite[rng.integers(0, finite.size, room)]
            self.kept.append(chosen.astype(np.float64))

    @property
    def sample(self) -> npt.NDArray[np.float64]:
        """The inputs that were kept."""
        return np.concatenate(self.kept) if self.kept else np.zeros(0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the histogram reaches from the first quantile to the last, what lies beyond is counted beside it."""
        values = self.sample
        found: dict[str, Any] = {"count": self.count, "sampled": int(values.size), "nonfinite": self.nonfinite}
        if not values.size:
            return found | {"min": None, "max": None, "quantiles": {}, "histogram": None}
        quantiles = np.quantile(values, QUANTILES)
        low, high = float(quantiles[0]), float(quantiles[-1])
        if not low < high:
            low, high = low - 0.5, high + 0.5
        counts, edges = np.histogram(values, bins=BINS, range=(low, high))
        histogram = {
            "edges": [float(v) for v in edges],
            "counts": [int(n) for n in counts],
            "below": int(np.count_nonzero(values < low)),
            "above": int(np.count_nonzero(values > high)),
        }
        named = {f"{q:g}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)}
        return found | {"min": self.low, "max": self.high, "quantiles": named, "histogram": histogram}


class Watcher:
    """Collects what all activations of a model get, and what each of them is.

    Attributes:
        sketches, calls: of each activation; of the calls the last one.
    """

    def __init__(self, batches: int, seed: int) -> None:
        self.room = max(SAMPLE // max(batches, 1), 100)
        self.rng = np.random.default_rng(seed)
        self.sketches: dict[Key, InputSketch] = {}
        self.calls: dict[Key, Call] = {}

    def __call__(self, call: Call) -> None:
        self.sketches.setdefault(call.key, InputSketch()).add(call.x.float().numpy(), self.room, self.rng)
        self.calls[call.key] = call
