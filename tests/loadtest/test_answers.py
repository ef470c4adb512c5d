"""What a server may do with a request, and as what each of it counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from opau_onnx.loadtest import LoadResult, Settings, run_async
from opau_onnx.loadtest.recorder import LOST, REFUSED, RIGHT, TIMED_OUT, WRONG
from tests.loadtest.fakes import FakeGrpc, FakeHttp, Proxy

POOL, REQUESTS, SPOILED = 8, 40, 20
QUICK = Settings(clients=4, requests=REQUESTS, warmup_s=0, pool=POOL, rows=(1, 3))
IMPATIENT = replace(QUICK, timeout_s=1.0)
"""The pool's own answers come first; then the request after SPOILED others gets what it gets."""


def once(act: str) -> Callable[[int], str]:
    return lambda n: act if n == POOL + SPOILED else "right"


def load(fake: Any, settings: Settings = QUICK) -> LoadResult:
    async def inside() -> LoadResult:
        async with fake.running():
            return await run_async(fake.url, settings=settings)

    return asyncio.run(inside())


@pytest.mark.parametrize("act", ["right", "rounded", "late", "json", "chunked", "eof", "last", "continue"])
def test_right_over_http(act: str) -> None:
    fake = FakeHttp(once(act))
    result = load(fake)
    assert result.ok
    assert result.counts == {RIGHT: REQUESTS}
    assert fake.seen == POOL + REQUESTS
    assert result.model["parameters"] == {"provider": "FakeProvider", "implementation": "kernel"}


HTTP = {
    "wrong": (WRONG, "expected"),
    "nan": (WRONG, "y[0, 0] is nan, expected"),
    "cut": (WRONG, "output 'y' is FP32"),
    "missing": (WRONG, "output 'top' is missing"),
    "other id": (WRONG, "it bears the id of another request"),
    "garbage": (WRONG, "the answer is not HTTP/1.1"),
    "close": (LOST, "connection closed without an answer, on a used connection"),
    "reset": (LOST, "without an answer, on a used connection"),
    "half": (LOST, "connection closed in the middle of an answer"),
    "never": (TIMED_OUT, "no answer"),
    "429": (REFUSED, "you get 429"),
    "500": ("HTTP 500", "you get 500"),
    "503": ("HTTP 503", "you get 503"),
    "error in 200": ("HTTP 200 with an error", "it failed all the same"),
}


@pytest.mark.parametrize("act", HTTP)
def test_each_fault_over_http_counts_as_what_it_is(act: str) -> None:
    kind, reason = HTTP[act]
    result = load(FakeHttp(once(act)), IMPATIENT if act == "never" else QUICK)
    assert not result.ok
    assert result.counts == {RIGHT: REQUESTS - 1, kind: 1}
    ((found, count),) = result.faults[kind].items()
    assert reason in found
    assert count == 1
    assert result.requests == REQUESTS


@pytest.mark.parametrize("act", ["right", "rounded", "late", "numbers"])
def test_right_over_grpc(act: str) -> None:
    fake = FakeGrpc(once(act))
    result = load(fake)
    assert result.ok
    assert result.counts == {RIGHT: REQUESTS}
    assert fake.seen == POOL + REQUESTS
    assert result.model["parameters"] == {"provider": "FakeProvider", "implementation": "kernel"}


GRPC = {
    "wrong": (WRONG, "expected"),
    "missing": (WRONG, "output 'top' is missing"),
    "other id": (WRONG, "it bears the id of another request"),
    "never": (TIMED_OUT, "no answer"),
    "RESOURCE_EXHAUSTED": (REFUSED, "you get RESOURCE_EXHAUSTED"),
    "INTERNAL": ("INTERNAL", "you get INTERNAL"),
    "UNAVAILABLE": ("UNAVAILABLE", "you get UNAVAILABLE"),
    "INVALID_ARGUMENT": ("INVALID_ARGUMENT", "you get INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("act", GRPC)
def test_each_fault_over_grpc_counts_as_what_it_is(act: str) -> None:
    kind, reason = GRPC[act]
    result = load(FakeGrpc(once(act)), IMPATIENT if act == "never" else QUICK)
    assert result.counts == {RIGHT: REQUESTS - 1, kind: 1}
    ((found, count),) = result.faults[kind].items()
    assert reason in found
    assert count == 1


def test_a_grpc_connection_that_breaks_loses_what_was_under_way() -> None:
    async def inside() -> LoadResult:
        fake = FakeGrpc()
        async with fake.running():
            proxy = Proxy(fake.port)

            def act(number: int) -> str:
                if number == POOL + SPOILED:
                    proxy.cut()
                    return "never"
                return "right"

            fake.act = act
            async with proxy.running() as port:
                return await run_async(f"grpc://127.0.0.1:{port}", settings=QUICK)

    result = asyncio.run(inside())
    assert result.counts[LOST] >= 1  # a client may have sent its next request before the break was known
    assert set(result.counts) <= {RIGHT, LOST, "unreachable"}
    assert "connection ended without an answer" in next(iter(result.faults[LOST]))


def test_rows_of_another_request_are_found_out() -> None:
    result = load(FakeHttp(once("swapped")))
    assert result.counts == {RIGHT: REQUESTS - 1, WRONG: 1}
    (reason,) = result.faults[WRONG]
    assert re.search(r"^request 4: y\[\d, \d\] is .*; the row is row \d of request [0-7]$", reason)


def test_wrong_answers_of_the_warm_up_are_faults_too() -> None:
    settings = Settings(clients=1, requests=10, warmup_s=0.2, pool=POOL)
    result = load(FakeHttp(lambda n: "wrong" if n == POOL else "right"), settings)
    assert result.counts == {RIGHT: 10}
    assert result.warmup_counts[WRONG] == 1
    assert result.faults[WRONG]
    assert not result.ok


def test_what_the_server_always_gets_wrong_is_not_seen_by_its_own_answers() -> None:
    result = load(FakeHttp(lambda n: "wrong"))
    assert result.ok
    assert "what it always gets wrong is not seen" in result.expected
