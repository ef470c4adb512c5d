"""Counting: quantiles, reasons, memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opau_onnx.loadtest.recorder import OTHERS, REASONS, RIGHT, WRONG, Latencies, Recorder


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_are_those_of_the_sorted_times(share: float) -> None:
    times = np.random.default_rng(0).lognormal(-6, 1.5, 5000)
    found = Latencies()
    for seconds in times:
        found.add(float(seconds))
    exact = float(np.quantile(times, share, method="inverted_cdf"))
    assert exact <= found.quantile(share) <= exact * 2 ** (1 / 512) * (1 + 1e-9)
    assert found.quantile(1.0) == found.largest == times.max()
    assert found.total == pytest.approx(times.sum())


def test_the_ends_of_the_range() -> None:
    found = Latencies()
    for seconds in (0.0, -1e-9, 1e-7, 1e9):
        found.add(seconds)
    assert found.count == 4
    assert found.quantile(0.5) == pytest.approx(1e-6)
    assert found.quantile(1.0) > 8000
    assert found.milliseconds()["max"] == 1e12


def test_nothing_counted() -> None:
    assert all(math.isnan(value) for value in Latencies().milliseconds().values())
    assert list(Latencies().milliseconds()) == ["mean", "p50", "p90", "p99", "p99.9", "max"]


def test_a_tally() -> None:
    recorder = Recorder(started=10.0)
    recorder.right(10.0, 10.5, 3, 100)
    recorder.right(10.5, 12.0, 1, 50)
    recorder.fault(WRONG, "reason")
    assert recorder.counts == {RIGHT: 2, WRONG: 1}
    assert (recorder.rows, recorder.received, recorder.ended, recorder.seconds) == (4, 150, 3, 2.0)
    assert recorder.latencies.quantile(1.0) == 1.5


def test_reasons_are_bounded() -> None:
    recorder = Recorder()
    for i in range(1000):
        recorder.fault(WRONG, f"number {i}")
    assert len(recorder.reasons[WRONG]) == REASONS + 1
    assert recorder.reasons[WRONG][OTHERS] == 1000 - REASONS
    recorder.fault(WRONG, "number 3")
    assert recorder.reasons[WRONG]["number 3"] == 2
