"""Result of a load test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opau_onnx._version import __version__
from opau_onnx.loadtest.config import LoadTestConfig, Target
from opau_onnx.loadtest.recorder import CORRECT, Recorder
from opau_onnx.loadtest.response_checker import PreparedRequest
from opau_onnx.loadtest.responses import ServedModel

if TYPE_CHECKING:
    from opau_onnx.loadtest.load_generator import LoadGenerator

FORMAT = "opau_onnx.loadtest/1"


@dataclass(frozen=True)
class Prepared:
    """State before the load.

    Attributes:
        requests: distinct, sent in turn.
        source: description of their inputs.
        expected: description of the reference.
        tolerance: description of the tolerance.
        indistinguishable: requests whose expected responses are within the tolerance of another one's.
    """

    requests: tuple[PreparedRequest, ...]
    source: str
    expected: str
    tolerance: str
    indistinguishable: int


@dataclass(frozen=True)
class LoadResult:
    """Result of a load test.

    Attributes:
        url, protocol: of the server.
        server: its own metadata.
        model: metadata of the model, with "parameters" (such as provider and implementation) where the server gives any.
        settings: of the load.
        pool: number of distinct requests.
        inputs: description of their inputs.
        expected: description of the reference.
        tolerance: description of the tolerance.
        indistinguishable: requests whose expected responses are within the tolerance of another one's: a server that swaps
            them is not detected.
        seconds: from the end of the warm-up to the last correct response.
        requests: that ended after the warm-up, of all outcomes.
        rows: of correct responses.
        requests_per_s, rows_per_s: correct responses, and their rows, per second.
        latency_ms: mean, p50, p90, p99, p99.9 and max of correct responses, from when each request was sent (closed loop) or
            due (open loop); NaN without any.
        send_delay_ms: open loop, likewise: from the arrival of each request until it was sent; None in the closed loop.
        counts: by outcome (:data:`opau_onnx.loadtest.recorder.OUTCOMES`, or a status).
        warmup_counts: likewise, of the warm-up.
        errors: for each outcome but correct ones, warm-up included, the reasons with counts.
        bytes_sent, bytes_received: of the requests (over HTTP with headers), and of the bodies of correct responses.
        unfinished: requests in flight when the test was stopped; counted nowhere else.
        stopped: reason why it ended early; "" where it did not.
    """

    url: str
    protocol: str
    server: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: LoadTestConfig
    pool: int
    inputs: str
    expected: str
    tolerance: str
    indistinguishable: int
    seconds: float
    requests: int
    rows: int
    requests_per_s: float
    rows_per_s: float
    latency_ms: Mapping[str, float]
    send_delay_ms: Mapping[str, float] | None
    counts: Mapping[str, int]
    warmup_counts: Mapping[str, int]
    errors: Mapping[str, Mapping[str, int]]
    bytes_sent: int
    bytes_received: int
    unfinished: int
    stopped: str

    @property
    def ok(self) -> bool:
        """True where all responses were correct, in the warm-up too."""
        return bool(self.counts.get(CORRECT)) and not self.errors

    @classmethod
    def of(
        cls, target: Target, model: ServedModel, settings: LoadTestConfig, prepared: Prepared, generator: LoadGenerator
    ) -> LoadResult:
        """The result of an generator that has run."""
        found = generator.measured
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
            indistinguishable=prepared.indistinguishable,
            seconds=found.seconds,
            requests=found.ended,
            rows=found.rows,
            requests_per_s=_rate(found.counts[CORRECT], found.seconds),
            rows_per_s=_rate(found.rows, found.seconds),
            latency_ms=found.latencies.summary_ms(),
            send_delay_ms=None if settings.rate is None else found.delays.summary_ms(),
            counts=dict(found.counts),
            warmup_counts=dict(generator.warmup.counts),
            errors=_merged(generator.warmup, found),
            bytes_sent=found.sent,
            bytes_received=found.received,
            unfinished=generator.unfinished,
            stopped=generator.stopped,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null for NaN and None. The bearer token is left out."""
        plain = {name: _plain(value) for name, value in vars(self).items() if name != "settings"}
        return {"format": FORMAT, "version": __version__, "ok": self.ok, **plain, "settings": self.settings.as_dict()}


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0


def _merged(*recorders: Recorder) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for recorder in recorders:
        for outcome, reasons in recorder.reasons.items():
            kept = found.setdefault(outcome, {})
            for reason, count in reasons.items():
                kept[reason] = kept.get(reason, 0) + count
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
