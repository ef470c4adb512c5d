"""How requests are sent: closed and open loop, bounds, connections that fail and come back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from opau_onnx.loadtest import LoadResult, Settings, run_async
from opau_onnx.loadtest.arrivals import gaps
from opau_onnx.loadtest.engine import Engine
from opau_onnx.loadtest.recorder import LOST, RIGHT, TIMED_OUT, UNREACHABLE
from opau_onnx.loadtest.response_checker import ResponseChecker
from tests.loadtest.fakes import FakeGrpc, FakeHttp
from tests.loadtest.test_answers import load

POOL = 4


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Those that run."""
    found: list[Engine] = []
    run = Engine.run

    async def remembered(self: Engine) -> None:
        found.append(self)
        await run(self)

    monkeypatch.setattr(Engine, "run", remembered)
    return found


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_the_count_is_kept_exactly(fake: Any) -> None:
    server = fake()
    result = load(server, Settings(clients=7, requests=123, warmup_s=0, pool=POOL, rows=(2, 5)))
    assert server.seen == POOL + 123
    assert result.requests == result.counts[RIGHT] == 123
    assert 2 * 123 <= result.rows <= 5 * 123
    assert result.bytes_sent > 123 * 2 * 16
    assert result.bytes_received > 123 * 2 * (16 + 8)
    assert result.requests_per_s == pytest.approx(123 / result.seconds)
    assert not result.stopped


def test_fewer_requests_than_clients() -> None:
    server = FakeHttp()
    assert load(server, Settings(clients=16, requests=3, warmup_s=0, pool=POOL)).requests == 3
    assert server.seen == POOL + 3


def test_time_is_a_bound() -> None:
    result = load(FakeHttp(), Settings(clients=2, seconds=0.3, requests=10**9, warmup_s=0.1, pool=POOL))
    assert result.ok
    assert result.warmup_counts[RIGHT] > 0
    assert 0 < result.requests < 10**9


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_clients_are_at_once_under_way(fake: Any) -> None:
    """A server that answers nobody before the fourth has asked would never answer fewer clients."""
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
        if arrived == POOL + 4:
            everybody.set()
        if arrived > POOL:
            await everybody.wait()

    server = Waiting()
    result = load(server, Settings(clients=4, requests=4, warmup_s=0, pool=POOL, timeout_s=20))
    assert result.counts == {RIGHT: 4}


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_open_loop(fake: Any) -> None:
    result = load(fake(), Settings(rate=500, requests=100, warmup_s=0, pool=POOL))
    assert result.ok
    assert result.counts == {RIGHT: 100}
    assert result.send_delay_ms is not None


def test_a_server_that_stalls_is_seen_by_all_that_arrive_meanwhile() -> None:
    """The closed loop would see one slow answer: coordinated omission."""
    settings = Settings(rate=200, arrivals="uniform", clients=1, requests=100, warmup_s=0, pool=POOL)
    result = load(FakeHttp(lambda n: "late" if n == POOL + 10 else "right"), settings)
    assert result.ok
    assert result.latency_ms["max"] >= 190
    assert result.latency_ms["p90"] >= 80  # 40 arrive in the 0.2 s of the stall; a third of all waits longer than 50 ms
    assert result.send_delay_ms is not None
    assert result.send_delay_ms["p90"] >= 80


def test_a_request_that_waits_too_long_is_timed_out_unsent() -> None:
    settings = Settings(rate=100, clients=1, requests=30, warmup_s=0, pool=POOL, timeout_s=1.0)
    server = FakeHttp(lambda n: "never" if n >= POOL else "right")
    result = load(server, settings)
    assert result.counts == {TIMED_OUT: 30}
    assert server.seen < POOL + 30
    assert "never sent: all connections were busy" in result.faults[TIMED_OUT]
    assert result.requests_per_s == 0
    assert result.as_dict()["latency_ms"]["p50"] is None


def test_arrivals() -> None:
    even, random = gaps(50.0, "uniform", 0), gaps(50.0, "poisson", 0)
    assert [next(even) for _ in range(3)] == [0.02] * 3
    found = [next(random) for _ in range(20_000)]
    assert sum(found) / len(found) == pytest.approx(0.02, rel=0.03)
    assert sum(gap < 0.02 for gap in found) / len(found) == pytest.approx(1 - 0.36788, abs=0.02)
    again = gaps(50.0, "poisson", 0)
    assert found[:10] == [next(again) for _ in range(10)]


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_a_server_that_goes_and_comes_back(fake: Any, engines: list[Engine]) -> None:
    """What is under way is lost, who comes meanwhile cannot connect, and then all is well again."""

    async def inside() -> LoadResult:
        server = fake()
        async with AsyncExitStack() as first:
            await first.enter_async_context(server.running())
            settings = Settings(clients=3, seconds=60, warmup_s=0, pool=POOL)
            task = asyncio.create_task(run_async(server.url, settings=settings))
            while server.seen < POOL + 20:
                await asyncio.sleep(0.01)
        while engines[0].measured.counts[UNREACHABLE] < 3:
            await asyncio.sleep(0.01)
        before = server.seen
        async with server.running():
            while server.seen < before + 20 and not task.done():
                await asyncio.sleep(0.01)
            engines[0].stop("seen enough")
            return await task

    result = asyncio.run(inside())
    assert result.stopped == "seen enough"
    assert result.counts[UNREACHABLE] >= 3
    assert set(result.counts) <= {RIGHT, LOST, UNREACHABLE, "CANCELLED", "UNAVAILABLE"}
    assert result.counts[RIGHT] >= 30


def test_a_server_that_does_not_come_back() -> None:
    async def inside() -> LoadResult:
        server = FakeHttp()
        async with server.running():
            settings = Settings(clients=3, requests=10**6, warmup_s=0, pool=POOL, give_up_s=0.4)
            task = asyncio.create_task(run_async(server.url, settings=settings))
            while server.seen < POOL + 20:
                await asyncio.sleep(0.01)
        return await task

    result = asyncio.run(inside())
    assert result.stopped == "the server could not be reached for 0.4 s"
    assert result.counts[RIGHT] >= 10
    assert result.counts[UNREACHABLE] >= 3
    assert not result.ok


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
def test_a_fault_of_the_load_test_itself_is_not_the_servers(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: ResponseChecker, request: Any, content: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(ResponseChecker, "check", check)
    with pytest.raises(ZeroDivisionError, match="ours"):
        load(fake(), Settings(clients=2, requests=10, warmup_s=0, pool=POOL))


@pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
@pytest.mark.parametrize("rate", [None, 300.0])
def test_stopping(fake: Any, rate: float | None, engines: list[Engine]) -> None:
    """What was measured so far is the result; what is under way counts nowhere."""

    def act(number: int) -> str:
        if number == POOL + 50:
            asyncio.get_running_loop().call_soon(engines[0].stop, "enough")
        return "never" if number >= POOL + 50 else "right"

    result = load(fake(act), Settings(clients=5, rate=rate, seconds=60, warmup_s=0, pool=POOL))
    assert result.stopped == "enough"
    assert result.counts[RIGHT] >= 46
    assert set(result.counts) == {RIGHT}
    assert result.unfinished >= 1
    assert result.ok
