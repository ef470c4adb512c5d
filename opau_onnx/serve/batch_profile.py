"""What a batch of so many rows costs, measured in the warm-up: how far batches should grow, and whether one ends in time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

OVERHEAD_SECONDS = 0.0003
"""Of a batch around its run: to the worker, merged, split, and back."""
ENOUGH = 0.9
"""Part of the best rows per second at which batches grow no further: beyond, requests wait for nearly nothing."""
RUNS, TIMED_SECONDS = 3, 0.1
"""Runs of each size whose fastest counts, and the time after which no further one is made."""
WEIGHT = 1 / 8
"""Of the newest batch in what is known of the speed."""


class BatchProfile:
    """Estimated run times of batches.

    Args:
        seconds: measured time of a run by its rows; empty where nothing was measured: then it is learned from the batches.
        padded: runs are padded to one of those sizes, so that what lies between takes as long as the next one.
    """

    def __init__(self, seconds: Mapping[int, float] | None = None, *, padded: bool = False) -> None:
        self.seconds = dict(sorted((seconds or {}).items()))
        self._rows, self._padded = list(self.seconds), padded
        self._factor = 1.0
        self._per_row = 0.0

    def best_rows(self, largest: int) -> int:
        """Rows at which a batch is full: the fewest of those measured with nearly the best rows per second.

        Args:
            largest: that a batch may have; the result where nothing was measured.
        """
        rates = {rows: rows / (seconds + OVERHEAD_SECONDS) for rows, seconds in self.seconds.items() if rows <= largest}
        enough = ENOUGH * max(rates.values(), default=0.0)
        return next((rows for rows, rate in rates.items() if rate >= enough), largest)

    def estimate(self, rows: int) -> float:
        """Seconds that a batch of so many rows takes, at the speed of the last ones."""
        return self._measured(rows) * self._factor if self._rows else self._per_row * rows

    def observe(self, rows: int, seconds: float) -> None:
        """A batch has run: other work on the machine, and other shapes, make it slower or faster than in the warm-up."""
        if self._rows:
            self._factor += (seconds / max(self._measured(rows), 1e-9) - self._factor) * WEIGHT
        else:
            self._per_row += (seconds / rows - self._per_row) * (WEIGHT if self._per_row else 1.0)

    def _measured(self, rows: int) -> float:
        sizes, place = self._rows, bisect_left(self._rows, rows)
        if place == len(sizes):
            return self.seconds[sizes[-1]] * rows / sizes[-1]
        above = self.seconds[sizes[place]]
        if self._padded or sizes[place] == rows or not place:
            return above
        low, high = sizes[place - 1], sizes[place]
        return self.seconds[low] + (above - self.seconds[low]) * (rows - low) / (high - low)


def timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of a few runs, or of the only one where it takes long.

    Args:
        run: to be measured; it has run before.
        clock: seconds.
    """
    fastest, begun = float("inf"), clock()
    for _ in range(RUNS):
        before = clock()
        run()
        fastest = min(fastest, clock() - before)
        if clock() - begun > TIMED_SECONDS:
            break
    return fastest
