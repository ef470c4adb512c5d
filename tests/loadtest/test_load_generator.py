"""How requests are sent: closed and open loop, bounds, connections that fail and come back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from opau_onnx.loadtest import LoadResult, LoadTestConfig, run_async
from opau_onnx.loadtest.arrivals import interarrival_times
from opau_onnx.loadtest.load_generator import LoadGenerator
from opau_onnx.loadtest.recorder import CONNECTION_FAILED, CONNECTION_LOST, CORRECT, TIMED_OUT
from opau_onnx.loadtest.response_checker import ResponseChecker
from tests.loadtest.fakes import FakeGrpc, FakeHttp
from tests.loadtest.test_responses import load

POOL = 4
BEFORE = 3 * POOL
"""Single requests before the load."""


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> list[LoadGenerator]:
    """Those that run."""
    found: list[LoadGenerator] = []
    run = LoadGenerator.run

    async def remembered(self: LoadGenerator) -> None:
        found.append(self)
        await run(self)

    monkeypatch.setattr(LoadGenerator, "run", remembered)
    return found


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_the_count_is_kept_exactly(fake: Any) -> None:
    server = fake()
    result = load(server, LoadTestConfig(clients=7, requests=123, warmup_s=0, pool=POOL, rows=(2, 5)))
    assert server.seen == BEFORE + 123
    assert result.requests == result.counts[CORRECT] == 123
    assert 2 * 123 <= result.rows <= 5 * 123
    assert result.bytes_sent > 123 * 2 * 16
    assert result.bytes_received > 123 * 2 * (16 + 8)
    assert result.requests_per_s == pytest.approx(123 / result.seconds)
    assert not result.stopped


def test_fewer_requests_than_clients() -> None:
    server = FakeHttp()
    assert load(server, LoadTestConfig(clients=16, requests=3, warmup_s=0, pool=POOL)).requests == 3
    assert server.seen == BEFORE + 3


def test_time_is_a_bound() -> None:
    result = load(FakeHttp(), LoadTestConfig(clients=2, seconds=0.3, requests=10**9, warmup_s=0.1, pool=POOL))
    assert result.ok
    assert result.warmup_counts[CORRECT] > 0
    assert 0 < result.requests < 10**9


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_clients_are_in_flight_at_once(fake: Any) -> None:
    """A server that responds to nobody before the fourth request would never respond to fewer clients."""
    arrived = 0
    everybody = asyncio.Event()

    class Waiting(fake):  # type: ignore[misc]
        async def _infer(self, *arguments: Any) -> Any:
            await gate()
            return await super()._infer(*arguments)

        async def ModelInfer(self, *arguments: Any) -> Any:
            await gate()
            return await super().ModelInfer(*arguments)

    async def gate() -> None:
        nonlocal arrived
        arrived += 1
        if arrived == BEFORE + 4:
            everybody.set()
        if arrived > BEFORE:
            await everybody.wait()

    server = Waiting()
    result = load(server, LoadTestConfig(clients=4, requests=4, warmup_s=0, pool=POOL, timeout_s=20))
    assert result.counts == {CORRECT: 4}


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_open_loop(fake: Any) -> None:
    result = load(fake(), LoadTestConfig(rate=500, requests=100, warmup_s=0, pool=POOL))
    assert result.ok
    assert result.counts == {CORRECT: 100}
    assert result.send_delay_ms is not None


def test_a_server_that_stalls_is_seen_by_all_that_arrive_meanwhile() -> None:
    """The closed loop would see one slow response: coordinated omission."""
    settings = LoadTestConfig(rate=200, arrivals="uniform", clients=1, requests=100, warmup_s=0, pool=POOL)
    result = load(FakeHttp(lambda n: "late" if n == BEFORE + 10 else "correct"), settings)
    assert result.ok
    assert result.latency_ms["max"] >= 190
    assert result.latency_ms["p90"] >= 80  # 40 arrive in the 0.2 s of the stall; a third of all waits longer than 50 ms
    assert result.send_delay_ms is not None
    assert result.send_delay_ms["p90"] >= 80


def test_a_request_that_waits_too_long_is_timed_out_unsent() -> None:
    settings = LoadTestConfig(rate=100, clients=1, requests=30, warmup_s=0, pool=POOL, timeout_s=1.0)
    server = FakeHttp(lambda n: "never" if n >= BEFORE else "correct")
    result = load(server, settings)
    assert result.counts == {TIMED_OUT: 30}
    assert server.seen < BEFORE + 30
    assert "never sent: all connections were busy" in result.errors[TIMED_OUT]
    assert result.requests_per_s == 0
    assert result.as_dict()["latency_ms"]["p50"] is None


def test_arrivals() -> None:
    even, random = interarrival_times(50.0, "uniform", 0), interarrival_times(50.0, "poisson", 0)
    assert [next(even) for _ in range(3)] == [0.02] * 3
    found = [next(random) for _ in range(20_000)]
    assert sum(found) / len(found) == pytest.approx(0.02, rel=0.03)
    assert sum(gap < 0.02 for gap in found) / len(found) == pytest.approx(1 - 0.36788, abs=0.02)
    again = interarrival_times(50.0, "poisson", 0)
    assert found[:10] == [next(again) for _ in range(10)]


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_a_server_that_goes_and_comes_back(fake: Any, generators: list[LoadGenerator]) -> None:
    """What is under way is lost, who comes meanwhile cannot connect, and then all is well again."""

    async def inside() -> LoadResult:
        server = fake()
        async with AsyncExitStack() as first:
            await first.enter_async_context(server.running())
            settings = LoadTestConfig(clients=3, seconds=60, warmup_s=0, pool=POOL)
            task = asyncio.create_task(run_async(server.url, settings=settings))
            while server.seen < BEFORE + 20:
                await asyncio.sleep(0.01)
        while generators[0].measured.counts[CONNECTION_FAILED] < 3:
            await asyncio.sleep(0.01)
        before = server.seen
        async with server.running():
            while server.seen < before + 20 and not task.done():
                await asyncio.sleep(0.01)
            generators[0].stop("seen enough")
            return await task

    result = asyncio.run(inside())
    assert result.stopped == "seen enough"
    assert result.counts[CONNECTION_FAILED] >= 3
    assert set(result.counts) <= {CORRECT, CONNECTION_LOST, CONNECTION_FAILED, "CANCELLED", "UNAVAILABLE"}
    assert result.counts[CORRECT] >= 30


def test_a_server_that_does_not_come_back() -> None:
    async def inside() -> LoadResult:
        server = FakeHttp()
        async with server.running():
            settings = LoadTestConfig(clients=3, requests=10**6, warmup_s=0, pool=POOL, unreachable_timeout_s=0.4)
            task = asyncio.create_task(run_async(server.url, settings=settings))
            while server.seen < BEFORE + 20:
                await asyncio.sleep(0.01)
        return await task

    result = asyncio.run(inside())
    assert result.stopped == "the server could not be reached for 0.4 s"
    assert result.counts[CORRECT] >= 10
    assert result.counts[CONNECTION_FAILED] >= 3
    assert not result.ok


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_an_error_of_the_load_test_itself_is_not_the_servers(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: ResponseChecker, request: Any, content: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(ResponseChecker, "check", check)
    with pytest.raises(ZeroDivisionError, match="ours"):
        load(fake(), LoadTestConfig(clients=2, requests=10, warmup_s=0, pool=POOL))


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
@pytest.mark.parametrize("rate", [None, 300.0])
def test_stopping(fake: Any, rate: float | None, generators: list[LoadGenerator]) -> None:
    """What was measured so far is the result; what is under way counts nowhere."""

    def act(number: int) -> str:
        if number == BEFORE + 50:
            asyncio.get_running_loop().call_soon(generators[0].stop, "enough")
        return "never" if number >= BEFORE + 50 else "correct"

    result = load(fake(act), LoadTestConfig(clients=5, rate=rate, seconds=60, warmup_s=0, pool=POOL))
    assert result.stopped == "enough"
    assert result.counts[CORRECT] >= 46
    assert set(result.counts) == {CORRECT}
    assert result.unfinished >= 1
    assert result.ok
