"""Counting what came back, in memory that does not grow."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

RIGHT = "right"
WRONG = "wrong"
LOST = "lost"
REFUSED = "refused"
TIMED_OUT = "timed out"
UNREACHABLE = "unreachable"
KINDS = {
    RIGHT: "answered as expected",
    WRONG: "answered with something else",
    LOST: "sent, and the connection ended without a whole answer",
    REFUSED: "HTTP 429 or RESOURCE_EXHAUSTED: too many at once",
    TIMED_OUT: "no answer within the time",
    UNREACHABLE: "not sent, since no connection could be made",
}
"""Outcomes of a request; an answer with another status counts under that status, e.g. "HTTP 500" or "INTERNAL"."""
REASONS = 10
"""So many different reasons of one kind are kept, with their counts."""
OTHERS = "other reasons"

_STEPS = 512  # of one octave: neighbours are 0.14 % apart
_OCTAVES = 33  # from 1 µs to 2.4 hours
_SMALLEST = 1e-6


class Latencies:
    """Times in seconds, counted in steps of 0.14 percent; the largest and the sum are exact.

    Attributes:
        count, total, largest: of the times.
    """

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (_STEPS * _OCTAVES + 1)))
        self.count, self.total, self.largest = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        step = int(math.log2(seconds / _SMALLEST) * _STEPS) + 1 if seconds > _SMALLEST else 0
        self._counts[min(step, _STEPS * _OCTAVES)] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.largest:
            self.largest = seconds

    def quantile(self, share: float) -> float:
        """The time within which at least this share was done, rounded up to a step; NaN where nothing was counted."""
        wanted, seen = math.ceil(share * self.count), 0
        if not self.count:
            return math.nan
        for step, found in enumerate(self._counts):
            seen += found
            if seen >= wanted and found:
                return min(_SMALLEST * math.exp2(step / _STEPS), self.largest)
        return self.largest

    def milliseconds(self) -> dict[str, float]:
        """Report as plain data."""
        found = {f"p{100 * share:g}": 1e3 * self.quantile(share) for share in (0.5, 0.9, 0.99, 0.999)}
        mean = self.total / self.count if self.count else math.nan
        return {"mean": 1e3 * mean, **found, "max": 1e3 * self.largest if self.count else math.nan}


@dataclass
class Recorder:
    """The requests of one phase.

    Attributes:
        begun: requests that are or were under way.
        counts: what became of them, by kind.
        reasons: of each kind but RIGHT, with counts.
        rows: of right answers.
        sent, received: bytes of the requests (over HTTP with their heads) and of the bodies of right answers.
        latencies: of right answers.
        delays: open loop: how long after its arrival each request was sent.
        started, last: when the phase began, and when its last right answer came, by time.perf_counter.
    """

    begun: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    rows: int = 0
    sent: int = 0
    received: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    delays: Latencies = field(default_factory=Latencies)
    started: float = 0.0
    last: float = 0.0

    def right(self, since: float, now: float, rows: int, received: int) -> None:
        """Count a right answer that came at ``now`` to a request that was due at ``since``."""
        self.counts[RIGHT] += 1
        self.rows += rows
        self.received += received
        self.latencies.add(now - since)
        self.last = now

    def fault(self, kind: str, reason: str) -> None:
        """Count a request that was not answered rightly."""
        self.counts[kind] += 1
        reasons = self.reasons.setdefault(kind, Counter())
        reasons[reason if reason in reasons or len(reasons) < REASONS else OTHERS] += 1

    @property
    def ended(self) -> int:
        """Requests of all kinds."""
        return self.counts.total()

    @property
    def seconds(self) -> float:
        """From its begin to its last right answer."""
        return max(self.last - self.started, 0.0)
