"""The queue of one model: what runs together, in which order, and what each request gets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from opau_onnx.protocol.errors import DeadlineError, QueueFullError, RunError, UnavailableError
from opau_onnx.protocol.tensors import Array
from opau_onnx.serve import queueing
from opau_onnx.serve.batches import PendingRequest
from opau_onnx.serve.queueing import Batcher
from opau_onnx.serve.statistics import Statistics


class Doubling:
    """Remembers its batches; waits for ``gate``; fails on batches that hold a 13."""

    def __init__(self) -> None:
        self.batches: list[Array] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        assert self.gate.wait(20)
        self.batches.append(inputs["x"].copy())
        if (inputs["x"] == 13).any():
            raise ValueError("thirteen")
        return {"y": inputs["x"] * 2}


class Bench:
    """A batcher with one worker and what the tests say of it."""

    def __init__(self, runner: Any = None, **options: Any) -> None:
        self.runner = runner or Doubling()
        self.statistics = Statistics()
        settings = {"max_batch_size": 8, "max_delay_us": 0, "max_queue": 100, **options}
        self.batcher = Batcher([self.runner], statistics=self.statistics, loop=asyncio.get_running_loop(), **settings)

    def submit(self, *values: float, seconds: float = 20.0) -> PendingRequest:
        return self.batcher.submit({"x": np.array(values)[:, None]}, asyncio.get_running_loop().time() + seconds)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_large_requests_are_not_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "BATCH_BYTES", 4 * 8)

    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(0.0)] + [bench.submit(*[1.0] * rows) for rows in (3, 1, 1, 6, 1)]
        bench.runner.gate.set()
        await asyncio.gather(*(pending.future for pending in submitted))
        assert [len(batch) for batch in bench.runner.batches] == [1, 4, 1, 6, 1]

    run(test())


def test_requests_that_wait_run_together_and_are_split_exactly() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(0.0)] + [bench.submit(*range(10 * i, 10 * i + i)) for i in range(1, 4)]
        bench.runner.gate.set()
        results = [await pending.future for pending in submitted]
        assert [len(batch) for batch in bench.runner.batches] == [1, 6]
        for i, result in enumerate(results[1:], 1):
            assert result["y"].ravel().tolist() == [2 * v for v in range(10 * i, 10 * i + i)]
        assert bench.batcher.waiting == 0

    run(test())


def test_a_batch_is_not_larger_than_allowed_and_keeps_the_order() -> None:
    async def test() -> None:
        bench = Bench(max_batch_size=4)
        bench.runner.gate.clear()
        submitted = [bench.submit(*[float(i)] * rows) for i, rows in enumerate([1, 3, 2, 1, 4, 4])]
        bench.runner.gate.set()
        await asyncio.gather(*(pending.future for pending in submitted))
        assert [batch.ravel().tolist() for batch in bench.runner.batches] == [[0], [1, 1, 1], [2, 2, 3], [4] * 4, [5] * 4]

    run(test())


def test_a_request_with_more_rows_than_a_batch_is_cut_and_joined() -> None:
    async def test() -> None:
        bench = Bench(max_batch_size=4)
        result = await bench.submit(*range(11)).future
        assert result["y"].ravel().tolist() == [2 * v for v in range(11)]
        assert sorted(len(batch) for batch in bench.runner.batches) == [3, 4, 4]

    run(test())


def test_other_shapes_do_not_run_together() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        later = asyncio.get_running_loop().time() + 20
        submitted = [bench.batcher.submit({"x": np.ones((1, width))}, later) for width in (1, 2, 3, 2, 3)]
        bench.runner.gate.set()
        results = [await pending.future for pending in submitted]
        assert [r["y"].shape for r in results] == [(1, 1), (1, 2), (1, 3), (1, 2), (1, 3)]
        assert [batch.shape for batch in bench.runner.batches] == [(1, 1), (2, 2), (2, 3)]

    run(test())


def test_without_batching_each_request_runs_alone() -> None:
    async def test() -> None:
        bench = Bench(max_batch_size=0)
        bench.runner.gate.clear()
        submitted = [bench.submit(*[0.5] * rows) for rows in (1, 30, 2)]
        bench.runner.gate.set()
        assert [len((await pending.future)["y"]) for pending in submitted] == [1, 30, 2]
        assert [len(batch) for batch in bench.runner.batches] == [1, 30, 2]

    run(test())


def test_a_request_waits_for_others_while_the_worker_is_free() -> None:
    async def test() -> None:
        bench = Bench(max_delay_us=200_000)
        submitted = [bench.submit(1.0)]
        await asyncio.sleep(0.02)
        submitted.append(bench.submit(2.0))
        assert bench.runner.batches == []
        await asyncio.gather(*(pending.future for pending in submitted))
        assert [len(batch) for batch in bench.runner.batches] == [2]

    run(test())


class Quick(Doubling):
    """Quick, but for batches that hold a 7, which wait for ``slow``."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = threading.Event()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if (inputs["x"] == 7).any():
            assert self.slow.wait(20)
        return super().run(inputs)


def test_a_worker_that_is_late_is_waited_for_no_longer_than_patience() -> None:
    async def test() -> None:
        runner = Quick()
        batcher = Batcher(
            [runner] * 2, max_batch_size=8, max_delay_us=20_000, max_queue=9, statistics=Statistics(),
            loop=asyncio.get_running_loop(),
        )  # fmt: skip
        later = asyncio.get_running_loop().time() + 20
        late = batcher.submit({"x": np.array([[7.0]])}, later)
        await asyncio.sleep(0.03)  # it runs now
        other = batcher.submit({"x": np.array([[1.0]])}, later)
        assert (await other.future)["y"].item() == 2.0  # by the other worker
        assert not late.future.done()
        runner.slow.set()
        assert (await late.future)["y"].item() == 14.0

    run(test())


def test_a_full_batch_does_not_wait() -> None:
    async def test() -> None:
        bench = Bench(max_batch_size=2, max_delay_us=60_000_000)
        submitted = [bench.submit(1.0), bench.submit(2.0)]
        await asyncio.gather(*(pending.future for pending in submitted))

    run(test())


def test_a_bad_request_fails_alone() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(v) for v in (0.0, 1.0, 13.0, 2.0)]
        bench.runner.gate.set()
        results = await asyncio.gather(*(pending.future for pending in submitted), return_exceptions=True)
        assert isinstance(results[2], RunError)
        assert "thirteen" in str(results[2])
        assert [r["y"].item() for i, r in enumerate(results) if i != 2 and isinstance(r, dict)] == [0.0, 2.0, 4.0]

    run(test())


def test_a_full_queue_refuses_and_takes_again() -> None:
    async def test() -> None:
        bench = Bench(max_queue=2)
        bench.runner.gate.clear()
        submitted = [bench.submit(float(i)) for i in range(3)]  # one runs, two wait
        with pytest.raises(QueueFullError, match="2 requests are waiting"):
            bench.submit(9.0)
        bench.runner.gate.set()
        await asyncio.gather(*(pending.future for pending in submitted))
        assert (await bench.submit(5.0).future)["y"].item() == 10.0

    run(test())


def test_a_dropped_request_does_not_run() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(float(i)) for i in range(4)]
        bench.batcher.drop(submitted[2])
        assert submitted[2].future.cancelled()
        assert bench.batcher.waiting == 2
        bench.runner.gate.set()
        await asyncio.gather(*(submitted[i].future for i in (0, 1, 3)))
        assert [batch.ravel().tolist() for batch in bench.runner.batches] == [[0.0], [1.0, 3.0]]

    run(test())


def test_a_cut_request_that_is_dropped_leaves_nothing_behind() -> None:
    async def test() -> None:
        bench = Bench(max_batch_size=2)
        bench.runner.gate.clear()
        long, short = bench.submit(*range(7)), bench.submit(50.0)
        bench.batcher.drop(long)
        bench.runner.gate.set()
        assert (await short.future)["y"].item() == 100.0
        assert bench.batcher.waiting == 0
        assert len(bench.runner.batches) == 2
        await bench.batcher.drain()

    run(test())


def test_a_deadline_ends_the_waiting() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        running, late = bench.submit(1.0), bench.submit(2.0, seconds=0.05)
        with pytest.raises(DeadlineError):
            await late.future
        bench.runner.gate.set()
        await running.future
        await bench.batcher.drain()
        assert len(bench.runner.batches) == 1

    run(test())


def test_drain_waits_for_all_and_close_refuses() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(float(i)) for i in range(3)]
        draining = asyncio.create_task(bench.batcher.drain())
        await asyncio.sleep(0.05)
        assert not draining.done()
        bench.runner.gate.set()
        await draining
        assert all(pending.future.done() for pending in submitted)
        bench.batcher.close()
        with pytest.raises(UnavailableError):
            bench.submit(1.0)

    run(test())


def test_close_ends_what_still_waits() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(float(i)) for i in range(2)]
        bench.batcher.close()
        results = await asyncio.gather(*(pending.future for pending in submitted), return_exceptions=True)
        assert [type(r) for r in results] == [UnavailableError, UnavailableError]
        bench.runner.gate.set()

    run(test())


def test_statistics_count_what_ran() -> None:
    async def test() -> None:
        bench = Bench()
        bench.runner.gate.clear()
        submitted = [bench.submit(1.0), bench.submit(2.0, 3.0), bench.submit(4.0)]
        time.sleep(0.01)
        bench.runner.gate.set()
        await asyncio.gather(*(pending.future for pending in submitted))
        found = bench.statistics
        assert found.executions == 2
        assert sorted(found.batches) == [1, 3]
        assert found.queue.count == 3
        assert found.compute.compute_infer.ns > 0
        assert found.batch_rows.counts[:3] == [1, 0, 1]

    run(test())


@pytest.mark.parametrize("workers", [1, 4])
def test_rows_never_mix_under_load(workers: int) -> None:
    """64 clients with requests of many sizes, each row its own number."""

    async def test() -> None:
        runner = Doubling()
        batcher = Batcher(
            [runner] * workers, max_batch_size=16, max_delay_us=100, max_queue=1000, statistics=Statistics(),
            loop=asyncio.get_running_loop(),
        )  # fmt: skip

        async def client(number: int) -> None:
            random = np.random.default_rng(number)
            for turn in range(30):
                rows = int(random.integers(1, 40))
                x = (number * 1e6 + turn * 1e3 + 1000 + np.arange(rows))[:, None]
                pending = batcher.submit({"x": x}, asyncio.get_running_loop().time() + 20)
                np.testing.assert_array_equal((await pending.future)["y"], 2 * x)

        await asyncio.gather(*(client(i) for i in range(64)))
        assert max(len(batch) for batch in runner.batches) <= 16

    run(test())
