"""From single runs to means, deviations and paired differences. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASE = "relu"
"""Baseline of the comparison."""
LEVEL = 0.95
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """Of an activation's test accuracy from the base's, in points, paired: the runs of one seed share order, augmentation and
    initial weights.

    Attributes:
        mean, deviation: of the differences over the seeds; the sample deviation, NaN for one seed.
        half: half the width of Student's 95 % interval of the mean; infinite for one seed.
        p: two-sided, of the paired t test; NaN for one seed.
        seeds: how many.
    """

    mean: float
    deviation: float
    half: float
    p: float
    seeds: int

    @property
    def verdict(self) -> str:
        """True where it is larger than its uncertainty."""
        if self.seeds < 2:
            return "not known: one seed"
        if abs(self.mean) <= self.half:
            return "no"
        return "yes, better" if self.mean > 0 else "yes, worse"


@dataclass(frozen=True)
class Summary:
    """All runs of an activation.

    Attributes:
        accuracies: test accuracy in %, of the seeds in their order.
        mean, deviation: of these; the sample deviation, NaN for one seed.
        parameters: learned numbers.
        epoch_seconds: median over the epochs of a run, of the run with the lowest: the one that other programs disturbed least.
        failed: what ended the other runs.
        difference: from the base; None for the base itself, and without a common seed.
    """

    activation: str
    accuracies: tuple[float, ...]
    mean: float
    deviation: float
    parameters: int
    epoch_seconds: float
    failed: tuple[str, ...]
    difference: Difference | None


def width(count: int) -> float:
    """Half the width of Student's interval for the mean of so many values, in standard errors."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


def difference(values: Sequence[float]) -> Difference:
    """From the differences themselves; at least one."""
    from scipy import stats

    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return Difference(mean, math.nan, math.inf, math.nan, count)
    deviation = statistics.stdev(values)
    error = deviation / math.sqrt(count)
    half = width(count) * error
    if not error:
        return Difference(mean, deviation, half, 1.0 if mean == 0 else 0.0, count)
    return Difference(mean, deviation, half, 2 * float(stats.t.sf(abs(mean) / error, count - 1)), count)


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """One for each activation that has a finished run, the best first."""
    found = []
    accuracies = {(r["activation"], r["seed"]): 100 * r["test"]["accuracy"] for r in runs if "failed" not in r}
    for name in dict.fromkeys(r["activation"] for r in runs):
        seeds = sorted(seed for activation, seed in accuracies if activation == name)
        if seeds:
            found.append(_summary(name, seeds, accuracies, [r for r in runs if r["activation"] == name]))
    return sorted(found, key=lambda s: -s.mean)


def _summary(name: str, seeds: Sequence[int], accuracies: Mapping[tuple[str, int], float], runs: Sequence[Run]) -> Summary:
    own = tuple(accuracies[name, seed] for seed in seeds)
    finished = [r for r in runs if "failed" not in r]
    common = [accuracies[name, seed] - accuracies[BASE, seed] for seed in seeds if (BASE, seed) in accuracies]
    return Summary(
        name, own, statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else math.nan, finished[0]["parameters"],
        min(statistics.median(epoch["seconds"] for epoch in r["epochs"]) for r in finished),
        tuple(r["failed"] for r in runs if "failed" in r), difference(common) if common and name != BASE else None,
    )  # fmt: skip


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """P values of several tests, raised so that a false alarm among all of them is as rare as it was for each (Holm, 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(values) - rank)))
        adjusted[name] = largest
    return adjusted
