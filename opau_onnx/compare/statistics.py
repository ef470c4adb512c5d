"""Errors of any number of elements in little memory: exact largest and mean, percentiles and a histogram from fine bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PER_DECADE = 100
"""Bins of a factor of ten: a percentile is rounded up to the bin's end, by at most 2.4 %."""
_LOW, _HIGH = -30, 45
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
_COARSE = 25
"""Bins that become one in the report's histogram: four a decade."""


class ErrorStatistics:
    """Errors, not negative; infinite where one side is NaN or infinite and the other is not."""

    def __init__(self) -> None:
        self.count = self.zeros = self.infinite = 0
        self.total = self.maximum = 0.0
        self.bins = np.zeros((_HIGH - _LOW) * PER_DECADE, dtype=np.int64)

    def add(self, errors: npt.NDArray[np.float64]) -> None:
        """Count the errors of one batch."""
        errors = errors.reshape(-1)
        finite = errors[np.isfinite(errors) & (errors > 0)]
        self.count += errors.size
        self.infinite += int(np.count_nonzero(~np.isfinite(errors)))
        self.zeros += int(np.count_nonzero(errors == 0))
        self.total += float(finite.sum())
        self.maximum = max(self.maximum, float(np.max(errors, initial=0.0)))
        at = np.floor((np.log10(finite) - _LOW) * PER_DECADE).astype(np.int64)
        self.bins += np.bincount(np.clip(at, 0, self.bins.size - 1), minlength=self.bins.size)

    @property
    def mean(self) -> float:
        """Of all; infinite where one is."""
        return float("inf") if self.infinite else self.total / max(self.count, 1)

    def percentile(self, share: float) -> float:
        """So many percent of the errors are at most this."""
        wanted = int(np.ceil(self.count * share / 100))
        if wanted <= self.zeros:
            return 0.0
        place = int(np.searchsorted(self.zeros + np.cumsum(self.bins), wanted))
        if place == self.bins.size:
            return float("inf")
        return min(float(10 ** (_LOW + (place + 1) / PER_DECADE)), self.maximum)

    def as_dict(self) -> dict[str, Any]:
        """Largest, mean and percentiles as plain data."""
        values = {"max": self.maximum, "mean": self.mean}
        return values | {name: self.percentile(share) for name, share in PERCENTILES.items()}

    def histogram(self) -> dict[str, Any]:
        """``counts[i]`` errors lie between 10 to the ``log10_edges[i]`` and to the next one; zeros and infinities apart."""
        coarse = self.bins.reshape(-1, _COARSE).sum(axis=1)
        used = np.flatnonzero(coarse)
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        edges = [_LOW + i * _COARSE / PER_DECADE for i in range(first, last + 1)] if used.size else []
        return {
            "log10_edges": edges,
            "counts": [int(n) for n in coarse[first:last]],
            "zeros": self.zeros,
            "infinite": self.infinite,
        }


def relative(errors: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Errors as a share of the expected values; those of expected zeros (and infinities) are left out unless they are 0."""
    size = np.abs(expected)
    kept = (np.isfinite(size) & (size > 0)) | (errors == 0)
    with np.errstate(all="ignore"):
        return np.asarray(np.where(errors == 0, 0.0, errors / size)[kept])
