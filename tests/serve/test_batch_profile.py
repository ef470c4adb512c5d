"""How far batches grow, by what the warm-up measured, and what happens to requests whose deadline is near."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opau_onnx.protocol.errors import DeadlineError
from opau_onnx.protocol.tensors import Array
from opau_onnx.serve import warmup
from opau_onnx.serve.batch_profile import RUNS, BatchProfile, timed
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.model import prepare
from opau_onnx.serve.sessions import open_model
from tests.serve import nets
from tests.serve.test_queueing import Bench

SIZES = (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({rows: 0.050 * rows for rows in SIZES}, 1),  # a dear model: a batch gains nothing
        ({rows: 0.002 + 0.00001 * rows for rows in SIZES}, 32),  # a cheap one
        ({rows: 0.020 + 0.010 * rows for rows in SIZES}, 16),  # rows per second: 80 at 8, 89 at 16, 94 at 32
        ({}, 32),
        ({32: 1.0}, 32),  # one bucket: nothing to choose
    ],
)
def test_batches_grow_while_rows_per_second_do(seconds: Mapping[int, float], best: int) -> None:
    found = BatchProfile(seconds).best_rows(32)
    assert found == best
    assert BatchProfile(seconds).best_rows(8) <= 8


def test_estimates_between_the_sizes() -> None:
    profile = BatchProfile({1: 0.01, 4: 0.04, 8: 0.12})
    assert [profile.estimate(rows) for rows in (1, 2, 4, 6, 8, 16)] == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.12, 0.24])
    padded = BatchProfile({1: 0.01, 4: 0.04, 8: 0.12}, padded=True)
    assert [padded.estimate(rows) for rows in (1, 2, 6, 8)] == pytest.approx([0.01, 0.04, 0.12, 0.12])


def test_estimates_follow_what_runs() -> None:
    profile = BatchProfile({1: 0.01, 2: 0.02})
    for _ in range(100):
        profile.observe(2, 0.06)  # others use the cores, too
    assert profile.estimate(1) == pytest.approx(0.03, rel=1e-3)
    unknown = BatchProfile()
    assert unknown.estimate(4) == 0.0
    unknown.observe(2, 0.1)
    assert unknown.estimate(4) == pytest.approx(0.2)


class Clock:
    """Goes on only when a run says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Costly:
    """A runner whose runs take a time by their rows, on the clock; the first of each size takes ten times as long."""

    def __init__(self, clock: Clock, seconds: Mapping[int, float]) -> None:
        self.clock, self.seconds, self.runs = clock, seconds, list[int]()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        rows = len(inputs["x"])
        self.clock.now += self.seconds[rows] * (1 if rows in self.runs else 10)
        self.runs.append(rows)
        return inputs


def test_the_warm_up_measures_every_size(tmp_path: Path) -> None:
    opened = open_model(ModelSettings(path=str(nets.linear(tmp_path / "m.onnx"))))
    clock = Clock()
    seconds = {1: 0.001, 2: 0.002, 4: 0.4}
    runner = Costly(clock, seconds)
    found = warmup.warm([runner], opened.inputs, {"x": (1, 4)}, (1, 2, 4), None, clock)
    assert found == pytest.approx(seconds)
    assert [runner.runs.count(rows) for rows in seconds] == [1 + RUNS, 1 + RUNS, 2]  # one that takes long is not run so often


def test_the_fastest_run_counts() -> None:
    clock, times = Clock(), iter([0.02, 0.01, 0.03])

    def run() -> None:
        clock.now += next(times)

    assert timed(run, clock) == pytest.approx(0.01)


def test_a_prepared_model_knows_its_times(tmp_path: Path) -> None:
    found = prepare("m", ModelSettings(path=str(nets.linear(tmp_path / "m.onnx"))))
    assert list(found.seconds) == list(SIZES)
    assert min(found.seconds.values()) > 0
    assert prepare("m", ModelSettings(path=str(nets.pair(tmp_path / "p.onnx")))).seconds == {}


# The queue


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def batches(seconds: Mapping[int, float], requests: list[tuple[float, float]]) -> tuple[list[list[float]], list[Any]]:
    """Batches that ran after the first one, which holds up the others; and the results of (value, seconds to the deadline)."""
    found: list[Any] = []

    async def test() -> None:
        bench = Bench(profile=BatchProfile(seconds))
        bench.runner.gate.clear()
        first = bench.submit(0.0)
        submitted = [bench.submit(value, seconds=left) for value, left in requests]
        bench.runner.gate.set()
        found.append(await asyncio.gather(*(pending.future for pending in submitted), return_exceptions=True))
        await first.future
        found.append([batch.ravel().tolist() for batch in bench.runner.batches[1:]])

    run(test())
    return found[1], found[0]


def test_a_dear_model_runs_row_by_row_and_a_cheap_one_in_batches() -> None:
    requests = [(float(i), 20.0) for i in range(1, 5)]
    assert batches({1: 0.05, 2: 0.1, 4: 0.2, 8: 0.4}, requests)[0] == [[1.0], [2.0], [3.0], [4.0]]
    assert batches({1: 0.001, 2: 0.001, 4: 0.001, 8: 0.001}, requests)[0] == [[1.0, 2.0, 3.0, 4.0]]


def test_a_batch_grows_no_further_than_the_oldest_deadline_allows() -> None:
    """One row takes 5 seconds, two rows 6, four rows 8; an eighth less once the first batch has taken no time."""
    seconds = {1: 5.0, 2: 6.0, 4: 8.0, 8: 12.0}
    requests = [(1.0, 7.5), (2.0, 60.0), (3.0, 60.0), (4.0, 60.0), (5.0, 60.0), (6.0, 60.0)]
    ran, _ = batches(seconds, requests)
    assert ran[0] == [1.0, 2.0, 3.0, 4.0]  # which take 7 seconds; five would take 7.9
    assert batches(seconds, [(1.0, 60.0), *requests[1:]])[0][0] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_requests_that_are_late_give_way() -> None:
    ran, results = batches({1: 5.0, 2: 6.0, 4: 8.0, 8: 12.0}, [(1.0, 3.0), (2.0, 60.0), (3.0, 60.0)])
    assert ran == [[2.0, 3.0], [1.0]]  # which was answered, as the runs here take no time
    assert [float(np.ravel(result["y"])[0]) for result in results] == [2.0, 4.0, 6.0]


def test_a_request_that_is_alone_runs_however_late_it_is() -> None:
    ran, results = batches({1: 5.0}, [(1.0, 1.0)])
    assert (ran, list(results[0])) == ([[1.0]], ["y"])


def test_a_request_that_gave_way_ends_at_its_deadline() -> None:
    async def test() -> None:
        bench = Bench(profile=BatchProfile({1: 5.0}))
        bench.runner.gate.clear()
        first = bench.submit(0.0)
        late = bench.submit(1.0, seconds=0.05)
        with pytest.raises(DeadlineError):
            await late.future
        bench.runner.gate.set()
        await first.future
        assert bench.batcher.waiting == 0

    run(test())
