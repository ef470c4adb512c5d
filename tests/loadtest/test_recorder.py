"""Counting: quantiles, reasons, memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opau_onnx.loadtest.recorder import CORRECT, INCORRECT, OTHERS, REASONS, LatencyHistogram, Recorder


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_are_those_of_the_sorted_times(share: float) -> None:
    times = np.random.default_rng(0).lognormal(-6, 1.5, 5000)
    found = LatencyHistogram()
    for seconds in times:
        found.add(float(seconds))
    exact = float(np.quantile(times, share, method="inverted_cdf"))
    assert exact <= found.quantile(share) <= exact * 2 ** (1 / 512) * (1 + 1e-9)
    assert found.quantile(1.0) == found.maximum == times.max()
    assert found.total == pytest.approx(times.sum())


def test_the_ends_of_the_range() -> None:
    found = LatencyHistogram()
    for seconds in (0.0, -1e-9, 1e-7, 1e9):
        found.add(seconds)
    assert found.count == 4
    assert found.quantile(0.5) == pytest.approx(1e-6)
    assert found.quantile(1.0) > 8000
    assert found.summary_ms()["max"] == 1e12


def test_nothing_counted() -> None:
    assert all(math.isnan(value) for value in LatencyHistogram().summary_ms().values())
    assert list(LatencyHistogram().summary_ms()) == ["mean", "p50", "p90", "p99", "p99.9", "max"]


def test_a_recorder() -> None:
    recorder = Recorder(started=10.0)
    recorder.record_success(10.0, 10.5, 3, 100)
    recorder.record_success(10.5, 12.0, 1, 50)
    recorder.record_error(INCORRECT, "reason")
    assert recorder.counts == {CORRECT: 2, INCORRECT: 1}
    assert (recorder.rows, recorder.received, recorder.ended, recorder.seconds) == (4, 150, 3, 2.0)
    assert recorder.latencies.quantile(1.0) == 1.5


def test_reasons_are_bounded() -> None:
    recorder = Recorder()
    for i in range(1000):
        recorder.record_error(INCORRECT, f"number {i}")
    assert len(recorder.reasons[INCORRECT]) == REASONS + 1
    assert recorder.reasons[INCORRECT][OTHERS] == 1000 - REASONS
    recorder.record_error(INCORRECT, "number 3")
    assert recorder.reasons[INCORRECT]["number 3"] == 2
