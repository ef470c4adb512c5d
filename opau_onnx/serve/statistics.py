"""Statistics of a model: counts and durations, from which the protocol's statistics and the metrics are made.

Everything here is written by the event loop's thread alone.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds."""
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Upper bounds in rows."""


@dataclass
class Duration:
    """How often something happened, and how long it took together, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Once more."""
        self.count += 1
        self.ns += ns


@dataclass
class Histogram:
    """Observations by upper bound, each counted once; the last count is of those above all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """One observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class Times:
    """Marks of one batch, in nanoseconds of ``time.perf_counter_ns``."""

    start: int
    merged: int
    ran: int
    end: int


@dataclass
class BatchSize:
    """All batches of one row count."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def add(self, times: Times) -> None:
        """One more batch."""
        self.compute_input.add(times.merged - times.start)
        self.compute_infer.add(times.ran - times.merged)
        self.compute_output.add(times.end - times.ran)


@dataclass
class Statistics:
    """Of one model, over all that was loaded under its name.

    Attributes:
        success, fail: answered requests and others, with the time from their acceptance to their end.
        queue: time that chunks of requests waited.
        compute: time of the batches that chunks of requests were in.
        batches: by row count.
        rows: answered.
        errors: failed requests by kind (:data:`opau_onnx.protocol.errors.KINDS`).
        latency: of answered requests, in seconds.
        batch_rows: rows of each batch.
        last: when the last request ended, in milliseconds since 1970.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: BatchSize = field(default_factory=BatchSize)
    batches: dict[int, BatchSize] = field(default_factory=dict)
    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(BATCH_BUCKETS))
    last: int = 0

    @property
    def executions(self) -> int:
        """Batches that ran."""
        return sum(size.compute_infer.count for size in self.batches.values())

    def batch(self, rows: int, times: Times) -> None:
        """A batch ran."""
        self.batches.setdefault(rows, BatchSize()).add(times)
        self.batch_rows.add(rows)

    def chunk(self, queued: int, times: Times) -> None:
        """A request, or one chunk of it, was in a batch that ran."""
        self.queue.add(times.start - queued)
        self.compute.add(times)

    def answered(self, rows: int, ns: int) -> None:
        """A request was answered."""
        self.success.add(ns)
        self.latency.add(ns / 1e9)
        self.rows += rows
        self.last = time.time_ns() // 1_000_000

    def failed(self, kind: str, ns: int) -> None:
        """A request was not."""
        self.fail.add(ns)
        self.errors[kind] += 1
        self.last = time.time_ns() // 1_000_000
