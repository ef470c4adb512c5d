"""Outcomes and latencies of requests, in bounded memory."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

CORRECT = "correct"
INCORRECT = "incorrect"
CONNECTION_LOST = "connection lost"
REJECTED = "rejected"
TIMED_OUT = "timed out"
CONNECTION_FAILED = "connection failed"
OUTCOMES = {
    CORRECT: "the expected response",
    INCORRECT: "another response, or one that violates the protocol",
    CONNECTION_LOST: "sent, but the connection ended before a complete response",
    REJECTED: "HTTP 429 or RESOURCE_EXHAUSTED: the server is overloaded",
    TIMED_OUT: "deadline exceeded",
    CONNECTION_FAILED: "not sent: no connection could be made",
}
"""Outcomes of a request; a response with another status counts under that status, e.g. "HTTP 500" or "INTERNAL"."""
REASONS = 10
"""Different reasons that are kept for each outcome, with their counts."""
OTHERS = "other reasons"

_STEPS = 512  # of one octave: neighbours are 0.14 % apart
_OCTAVES = 33  # from 1 µs to 2.4 hours
_SMALLEST = 1e-6


class LatencyHistogram:
    """Histogram of times in seconds, in steps of 0.14 percent; the maximum and the sum are exact.

    Attributes:
        count, total, maximum: of the times.
    """

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (_STEPS * _OCTAVES + 1)))
        self.count, self.total, self.maximum = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        step = int(math.log2(seconds / _SMALLEST) * _STEPS) + 1 if seconds > _SMALLEST else 0
        self._counts[min(step, _STEPS * _OCTAVES)] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.maximum:
            self.maximum = seconds

    def quantile(self, share: float) -> float:
        """The quantile, rounded up to a step; NaN where nothing was counted."""
        wanted, seen = math.ceil(share * self.count), 0
        if not self.count:
            return math.nan
        for step, found in enumerate(self._counts):
            seen += found
            if seen >= wanted and found:
                return min(_SMALLEST * math.exp2(step / _STEPS), self.maximum)
        return self.maximum

    def summary_ms(self) -> dict[str, float]:
        """Mean, percentiles and maximum in milliseconds."""
        found = {f"p{100 * share:g}": 1e3 * self.quantile(share) for share in (0.5, 0.9, 0.99, 0.999)}
        mean = self.total / self.count if self.count else math.nan
        return {"mean": 1e3 * mean, **found, "max": 1e3 * self.maximum if self.count else math.nan}


@dataclass
class Recorder:
    """The requests of one phase.

    Attributes:
        started_requests: requests that were sent or wait for a connection.
        counts: by outcome.
        reasons: of each outcome but CORRECT, with counts.
        rows: of correct responses.
        sent, received: bytes of the requests (over HTTP with headers) and of the bodies of correct responses.
        latencies: of correct responses.
        delays: open loop: time from the arrival of each request until it was sent.
        started, last: start of the phase and time of its last correct response (time.perf_counter).
    """

    started_requests: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    rows: int = 0
    sent: int = 0
    received: int = 0
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    delays: LatencyHistogram = field(default_factory=LatencyHistogram)
    started: float = 0.0
    last: float = 0.0

    def record_success(self, since: float, now: float, rows: int, received: int) -> None:
        """Count a correct response at ``now`` to a request that was due at ``since``."""
        self.counts[CORRECT] += 1
        self.rows += rows
        self.received += received
        self.latencies.add(now - since)
        self.last = now

    def record_error(self, outcome: str, reason: str) -> None:
        """Count a request without a correct response."""
        self.counts[outcome] += 1
        reasons = self.reasons.setdefault(outcome, Counter())
        reasons[reason if reason in reasons or len(reasons) < REASONS else OTHERS] += 1

    @property
    def ended(self) -> int:
        """Requests of all outcomes."""
        return self.counts.total()

    @property
    def seconds(self) -> float:
        """From the start to the last correct response."""
        return max(self.last - self.started, 0.0)
