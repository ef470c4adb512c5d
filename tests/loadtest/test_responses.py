"""Responses that a server may give, and the outcome of each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from opau_onnx.loadtest import LoadResult, LoadTestConfig, run_async
from opau_onnx.loadtest.recorder import CONNECTION_FAILED, CONNECTION_LOST, CORRECT, INCORRECT, REJECTED, TIMED_OUT
from tests.loadtest.fakes import FakeGrpc, FakeHttp, Proxy

POOL, REQUESTS, SPOILED = 8, 40, 20
BEFORE = 3 * POOL
"""Single requests before the load: the expected responses, and two draws of nudged inputs."""
QUICK = LoadTestConfig(clients=4, requests=REQUESTS, warmup_s=0, pool=POOL, rows=(1, 3))
IMPATIENT = replace(QUICK, timeout_s=1.0)
"""The single requests come first; then the request after SPOILED others gets the fault."""


def once(act: str) -> Callable[[int], str]:
    return lambda n: act if n == BEFORE + SPOILED else "correct"


def load(fake: Any, settings: LoadTestConfig = QUICK) -> LoadResult:
    async def inside() -> LoadResult:
        async with fake.running():
            return await run_async(fake.url, settings=settings)

    return asyncio.run(inside())


@pytest.mark.parametrize("act", ["correct", "rounded", "late", "json", "chunked", "eof", "last", "continue"])
def test_correct_over_http(act: str) -> None:
    fake = FakeHttp(once(act))
    result = load(fake)
    assert result.ok
    assert result.counts == {CORRECT: REQUESTS}
    assert fake.seen == BEFORE + REQUESTS
    assert result.model["parameters"] == {"provider": "FakeProvider", "implementation": "kernel"}


HTTP = {
    "wrong": (INCORRECT, "expected"),
    "nan": (INCORRECT, "y[0, 0] is nan, expected"),
    "cut": (INCORRECT, "output 'y' is FP32"),
    "missing": (INCORRECT, "output 'top' is missing"),
    "other id": (INCORRECT, "the id is "),
    "garbage": (INCORRECT, "the response is not HTTP/1.1"),
    "close": (CONNECTION_LOST, "connection closed without a response, on a used connection"),
    "reset": (CONNECTION_LOST, "without a response, on a used connection"),
    "half": (CONNECTION_LOST, "connection closed in the middle of a response"),
    "never": (TIMED_OUT, "no response"),
    "429": (REJECTED, "you get 429"),
    "500": ("HTTP 500", "you get 500"),
    "503": ("HTTP 503", "you get 503"),
    "error in 200": ("HTTP 200 with an error", "it failed all the same"),
}


@pytest.mark.parametrize("act", HTTP)
def test_each_error_over_http_counts_as_what_it_is(act: str) -> None:
    kind, reason = HTTP[act]
    result = load(FakeHttp(once(act)), IMPATIENT if act == "never" else QUICK)
    assert not result.ok
    assert result.counts == {CORRECT: REQUESTS - 1, kind: 1}
    ((found, count),) = result.errors[kind].items()
    assert reason in found
    assert count == 1
    assert result.requests == REQUESTS


@pytest.mark.parametrize("act", ["correct", "rounded", "late", "numbers"])
def test_correct_over_grpc(act: str) -> None:
    fake = FakeGrpc(once(act))
    result = load(fake)
    assert result.ok
    assert result.counts == {CORRECT: REQUESTS}
    assert fake.seen == BEFORE + REQUESTS
    assert result.model["parameters"] == {"provider": "FakeProvider", "implementation": "kernel"}


GRPC = {
    "wrong": (INCORRECT, "expected"),
    "missing": (INCORRECT, "output 'top' is missing"),
    "other id": (INCORRECT, "the id is "),
    "never": (TIMED_OUT, "no response"),
    "RESOURCE_EXHAUSTED": (REJECTED, "you get RESOURCE_EXHAUSTED"),
    "INTERNAL": ("INTERNAL", "you get INTERNAL"),
    "UNAVAILABLE": ("UNAVAILABLE", "you get UNAVAILABLE"),
    "INVALID_ARGUMENT": ("INVALID_ARGUMENT", "you get INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("act", GRPC)
def test_each_error_over_grpc_counts_as_what_it_is(act: str) -> None:
    kind, reason = GRPC[act]
    result = load(FakeGrpc(once(act)), IMPATIENT if act == "never" else QUICK)
    assert result.counts == {CORRECT: REQUESTS - 1, kind: 1}
    ((found, count),) = result.errors[kind].items()
    assert reason in found
    assert count == 1


def test_a_grpc_connection_that_breaks_loses_what_was_in_flight() -> None:
    async def inside() -> LoadResult:
        fake = FakeGrpc()
        async with fake.running():
            proxy = Proxy(fake.port)

            def act(number: int) -> str:
                if number == BEFORE + SPOILED:
                    proxy.cut()
                    return "never"
                return "correct"

            fake.act = act
            async with proxy.running() as port:
                return await run_async(f"grpc://127.0.0.1:{port}", settings=QUICK)

    result = asyncio.run(inside())
    assert result.counts[CONNECTION_LOST] >= 1  # a client may have sent its next request before the break was known
    assert set(result.counts) <= {CORRECT, CONNECTION_LOST, CONNECTION_FAILED}
    assert "connection ended without a response" in next(iter(result.errors[CONNECTION_LOST]))


def test_rows_of_another_request_are_found_out() -> None:
    result = load(FakeHttp(once("swapped")))
    assert result.counts == {CORRECT: REQUESTS - 1, INCORRECT: 1}
    (reason,) = result.errors[INCORRECT]
    assert re.search(r"^request 4: y\[\d, \d\] is .*; the row is row \d of request [0-7]$", reason)


def test_incorrect_responses_of_the_warm_up_are_errors_too() -> None:
    settings = LoadTestConfig(clients=1, requests=10, warmup_s=0.2, pool=POOL)
    result = load(FakeHttp(lambda n: "wrong" if n == BEFORE else "correct"), settings)
    assert result.counts == {CORRECT: 10}
    assert result.warmup_counts[INCORRECT] == 1
    assert result.errors[INCORRECT]
    assert not result.ok


def test_errors_that_the_server_always_makes_are_not_detected_by_its_own_responses() -> None:
    result = load(FakeHttp(lambda n: "wrong"))
    assert result.ok
    assert "errors that it always makes are not detected" in result.expected
