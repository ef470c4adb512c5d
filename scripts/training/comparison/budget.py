"""How many epochs fit into a given time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training import TrainingError

RESERVE = 0.1
"""Of the time, for all but training (starting, testing, the times of inference) and for epochs that take longer."""


@dataclass(frozen=True)
class Budget:
    """A number of epochs and where it comes from.

    Attributes:
        minutes: that were given; None where the epochs were.
        epochs: of every run.
        seconds: of an epoch with each activation, measured beforehand; empty where it was not.
    """

    minutes: float | None
    epochs: int
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return {"minutes": self.minutes, "epochs": self.epochs, "seconds_per_epoch": dict(self.seconds)}


def choose(minutes: float, seconds: Mapping[str, float], seeds: int, jobs: int, spent: float = 0.0) -> Budget:
    """The most epochs that fit, the same for all activations.

    Args:
        minutes: for everything. seconds: of an epoch with each activation. seeds: runs of each.
        jobs: runs side by side; the times were measured so.
        spent: seconds that are gone already.

    Raises:
        TrainingError: not even one fits.
    """
    whole = sum(seconds.values()) * seeds / jobs
    epochs = int((60 * minutes * (1 - RESERVE) - spent) / whole)
    if epochs < 1:
        need = (whole + spent) / (1 - RESERVE) / 60
        raise TrainingError(
            f"an epoch of {seeds} runs with each of {len(seconds)} activations takes {whole / 60:.1f} minutes, "
            f"{jobs} at a time; --time-budget {minutes:g} is too short, expected at least {need:.1f}"
        )
    return Budget(minutes, epochs, seconds)
