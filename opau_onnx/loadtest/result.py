"""Result of a load test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opau_onnx._version import __version__
from opau_onnx.loadtest.answers import Model
from opau_onnx.loadtest.recorder import RIGHT, Recorder
from opau_onnx.loadtest.response_checker import Request
from opau_onnx.loadtest.settings import Settings, Target

if TYPE_CHECKING:
    from opau_onnx.loadtest.engine import Engine

FORMAT = "opau_onnx.loadtest/1"


@dataclass(frozen=True)
class Prepared:
    """All that was ready before the load.

    Attributes:
        requests: distinct, sent in turn.
        source: what their inputs are, in words.
        expected: where the right answers come from, in words.
        tolerance: within which an answer is right, in words.
        lookalikes: requests that could be mixed up with another one unseen.
    """

    requests: tuple[Request, ...]
    source: str
    expected: str
    tolerance: str
    lookalikes: int


@dataclass(frozen=True)
class LoadResult:
    """Result of a load test.

    Attributes:
        url, protocol: of the server.
        server: its own metadata.
        model: metadata of the model, with "parameters" (such as provider and implementation) where the server gives any.
        settings: what was asked for.
        pool: distinct prepared requests.
        inputs: what they are, in words.
        expected: where the right answers come from, in words.
        tolerance: within which an answer is right, in words.
        lookalikes: prepared requests whose answer is within the tolerance of another one's: mixing those up would not be seen.
        seconds: from the end of the warm-up to the last right answer.
        requests: that ended after the warm-up, whatever became of them.
        rows: of right answers.
        requests_per_s, rows_per_s: right answers, and their rows, in a second.
        latency_ms: mean, p50, p90, p99, p99.9 and max of right answers, from when each request was sent (closed loop) or due
            (open loop); NaN without any.
        send_delay_ms: open loop, likewise: how long after its arrival each request was sent; None in the closed loop.
        counts: by kind (:data:`opau_onnx.loadtest.recorder.KINDS`, or a status).
        warmup_counts: likewise, of the warm-up.
        faults: for each kind but right ones, warm-up included, the reasons and how often.
        bytes_sent, bytes_received: of the requests (over HTTP with their heads), and of the bodies of right answers.
        unfinished: requests under way when the test was stopped; counted nowhere else.
        stopped: why it ended before its bounds; "" where it did not.
    """

    url: str
    protocol: str
    server: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Settings
    pool: int
    inputs: str
    expected: str
    tolerance: str
    lookalikes: int
    seconds: float
    requests: int
    rows: int
    requests_per_s: float
    rows_per_s: float
    latency_ms: Mapping[str, float]
    send_delay_ms: Mapping[str, float] | None
    counts: Mapping[str, int]
    warmup_counts: Mapping[str, int]
    faults: Mapping[str, Mapping[str, int]]
    bytes_sent: int
    bytes_received: int
    unfinished: int
    stopped: str

    @property
    def ok(self) -> bool:
        """True where all responses were right, in the warm-up too."""
        return bool(self.counts.get(RIGHT)) and not self.faults

    @classmethod
    def of(cls, target: Target, model: Model, settings: Settings, prepared: Prepared, engine: Engine) -> LoadResult:
        """The result of an engine that has run."""
        found = engine.measured
        return cls(
            url=target.url,
            protocol=target.protocol,
            server=model.server,
            model=model.metadata,
            settings=settings,
            pool=len(prepared.requests),
            inputs=prepared.source,
            expected=prepared.expected,
            tolerance=prepared.tolerance,
            lookalikes=prepared.lookalikes,
            seconds=found.seconds,
            requests=found.ended,
            rows=found.rows,
            requests_per_s=_rate(found.counts[RIGHT], found.seconds),
            rows_per_s=_rate(found.rows, found.seconds),
            latency_ms=found.latencies.milliseconds(),
            send_delay_ms=None if settings.rate is None else found.delays.milliseconds(),
            counts=dict(found.counts),
            warmup_counts=dict(engine.warmup.counts),
            faults=_merged(engine.warmup, found),
            bytes_sent=found.sent,
            bytes_received=found.received,
            unfinished=engine.unfinished,
            stopped=engine.stopped,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null for what is not known. The bearer token is not in it."""
        plain = {name: _plain(value) for name, value in vars(self).items() if name != "settings"}
        return {"format": FORMAT, "version": __version__, "ok": self.ok, **plain, "settings": self.settings.as_dict()}


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0


def _merged(*tallies: Recorder) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for recorder in tallies:
        for kind, reasons in recorder.reasons.items():
            kept = found.setdefault(kind, {})
            for reason, count in reasons.items():
                kept[reason] = kept.get(reason, 0) + count
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
