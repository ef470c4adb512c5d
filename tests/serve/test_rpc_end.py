"""gRPC calls while the server goes down: what was accepted is answered, what comes later is told so."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.serve.rpc import gate
from tests.serve import nets
from tests.serve.conftest import Running
from tests.serve.rpc_server import ROW, SLOW, begin, fails, message, stream, stub, stuck, tensor, until


def test_stopping_answers_what_was_accepted(running: Running, tmp_path: Path) -> None:
    """Clients that ask again and again: each call is answered, or refused as one that came too late."""
    server = running({"slow": {"path": nets.slow(tmp_path / "slow.onnx", 300), "max_batch_size": 4}}, http_port=-1)
    answered, ends = Counter(), []

    def ask(number: int) -> None:
        with stub(server, compression=None) as call:
            while True:
                try:
                    call("ModelInfer", SLOW)
                    answered[number] += 1
                except grpc.RpcError as error:
                    ends.append((error.code(), error.details()))
                    return

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    until(lambda: len(answered) == 12)
    statistics = server.service.repository.entry("slow").statistics
    server.stop()
    for thread in threads:
        thread.join(30)
    assert ends == [(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")] * 12
    assert statistics.success.count == sum(answered.values())
    assert not statistics.errors
    with stub(server) as call, fails("UNAVAILABLE"):
        call("ServerLive", b"", pb.ServerLiveResponse)


def test_clients_that_do_not_stop_calling(running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LINGER_SECONDS", 0.2)
    server = running({"linear": folder / "linear.onnx"}, http_port=-1)
    statistics = server.service.repository.entry("linear").statistics
    codes: Counter[str] = Counter()

    def ask() -> None:
        with stub(server) as call:
            while True:
                try:
                    call("ModelInfer", message("linear", ROW))
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1
                    if "shutting down" not in error.details():  # no server any more
                        return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: codes["OK"] > 20)
    server.stop()
    for thread in threads:
        thread.join(30)
    assert codes["OK"] == statistics.success.count
    assert codes["UNAVAILABLE"] > 4  # each heard it before the end
    # On a busy machine the very last call may be on its way for longer than the server waits for it: gRPC cancels that.
    assert set(codes) - {"CANCELLED"} == {"OK", "UNAVAILABLE"}


def test_the_last_calls_are_refused_once_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed gate that is not left alone keeps callers waiting: none of them calls again in the meantime."""
    monkeypatch.setattr(gate, "LINGER_SECONDS", 0.05)
    refused: list[int] = []

    async def caller(number: int, closed: gate.Gate) -> None:
        while True:
            await closed.refusal()
            refused.append(number)
            await asyncio.sleep(0.002)

    async def close() -> None:
        closed = gate.Gate()
        closed.close()
        callers = [asyncio.create_task(caller(i, closed)) for i in range(3)]
        await closed.emptied(30)
        before = len(refused)
        await asyncio.sleep(0.05)
        assert len(refused) == before > 3
        closed.release()
        await asyncio.sleep(0.05)
        assert set(refused[before:]) == {0, 1, 2}
        for one in callers:
            one.cancel()

    asyncio.run(close())


def test_the_gate_waits_for_those_inside_but_not_for_ever() -> None:
    class Context:
        def add_done_callback(self, callback: Callable[[Any], None]) -> None:
            self.end = callback

    async def close() -> None:
        inside, context = gate.Gate(), Context()
        inside.enter(context)
        inside.close()
        await inside.emptied(0.05)
        assert inside.active == 1
        waiting = asyncio.create_task(inside.emptied(60))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        context.end(context)
        await waiting
        assert inside.active == 0

    asyncio.run(close())


def test_stopping_ends_streams_behind_their_answers(running: Running, folder: Path) -> None:
    server = running({"slow": {"path": folder / "slow.onnx", "max_batch_size": 1, "instances": 1}}, http_port=-1)
    with stream(server) as (made, answers):
        with stuck(server) as served:
            for _ in range(3):
                made.async_stream_infer("slow", [tensor("x", np.zeros((1, 400, 4), np.float32))])
            until(lambda: served.batcher.waiting == 2)
            stopping = server.begin(server.server.stop(0.0))
            until(lambda: server.service.draining)
        stopping.result(60)
        server.stopped = True
        got = [answers.get(timeout=30) for _ in range(4)]
    assert [type(one) for one in got[:3]] == [triton.InferResult] * 3
    assert "UNAVAILABLE" in str(got[3])
    assert "shutting down" in str(got[3])


def test_health_while_going_down(running: Running, folder: Path) -> None:
    server = running({"slow": {"path": folder / "slow.onnx", "max_batch_size": 1, "instances": 1}}, http_port=-1)
    with stub(server) as call:
        assert call("ServerReady", b"", pb.ServerReadyResponse).ready
        with stuck(server) as served:
            calls = [begin(call, SLOW) for _ in range(4)]
            until(lambda: served.batcher.waiting == 3)
            stopping = server.begin(server.server.stop(0.0))
            until(lambda: server.service.draining)
            assert not call("ServerReady", b"", pb.ServerReadyResponse).ready
            assert call("ServerLive", b"", pb.ServerLiveResponse).live
            with fails("UNAVAILABLE", "the server is shutting down"):
                call("ModelInfer", SLOW)
        stopping.result(60)
        server.stopped = True
        assert [one.code() for one in calls] == [grpc.StatusCode.OK] * 4


def test_what_takes_too_long_is_given_up(running: Running, folder: Path) -> None:
    table = {"path": folder / "slow.onnx", "max_batch_size": 1, "instances": 1}
    server = running({"slow": table}, http_port=-1, drain_timeout_s=0.1)
    with stub(server) as call, stuck(server) as served:
        calls = [begin(call, SLOW) for _ in range(3)]
        until(lambda: served.batcher.waiting == 2)
        server.stop()
        assert {one.code() for one in calls} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
