"""Requests that gRPC is receiving: few at a time, ended where memory is short, and freed."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import InvalidRequestError, QueueFullError, TooLargeError
from opau_onnx.serve.config import ServerSettings
from opau_onnx.serve.rpc import reception as module
from opau_onnx.serve.rpc.codec import decode, parse_request
from opau_onnx.serve.rpc.reception import Reception, give_back, resident_bytes
from tests.serve.conftest import Run, Running
from tests.serve.rpc_server import ROW, array, begin, client, fails, message, stub, stuck, tensor

LIMIT, LARGEST = 4000, 500
"""Bytes: four requests are read at the same time, since each may be there twice."""


class Context:
    """A call whose request comes when it is told to."""

    def __init__(self) -> None:
        self.request: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked = False

    async def read(self) -> Any:
        self.asked = True
        return await self.request


class Process:
    """Its resident memory, as the tests want it."""

    def __init__(self) -> None:
        self.resident, self.trims = 10_000, 0
        self.short_until: Callable[[], bool] = lambda: True

    def now(self) -> int:
        return self.resident + (0 if self.short_until() else LIMIT + 1)

    def trim(self) -> None:
        self.trims += 1


def given(process: Process) -> tuple[Reception, Any]:
    settings = SimpleNamespace(server=ServerSettings(max_pending_bytes=LIMIT, max_request_bytes=LARGEST))
    service: Any = SimpleNamespace(settings=settings, pending_bytes=0, repository=[])
    return Reception(service, process.now, process.trim), service


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def becomes(true: Callable[[], Any]) -> None:
    while not true():
        await asyncio.sleep(0.002)


def reads(reception: Reception, count: int) -> tuple[list[Context], list[asyncio.Task[Any]]]:
    contexts = [Context() for _ in range(count)]
    return contexts, [asyncio.ensure_future(reception.read(context)) for context in contexts]


def ended(tasks: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Those that failed."""
    return [task for task in tasks if task.done() and task.exception() is not None]


def test_few_calls_are_received_in_the_cheap_way() -> None:
    async def test() -> None:
        reception, _ = given(Process())
        release = asyncio.Event()

        async def call() -> bool:
            found = reception.plain()
            await release.wait()
            reception.received(10)
            return found

        asyncio.get_running_loop().call_later(0.01, release.set)
        assert await asyncio.gather(*[call() for _ in range(6)]) == [True] * 4 + [False] * 2
        assert await asyncio.ensure_future(call())  # they have been received
        left = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        left.cancel()  # its client has gone
        await asyncio.wait([left])
        assert not reception._plain

    run(test())


def test_the_others_wait_until_it_shows_whether_those_that_are_read_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE_STEPS", 3)

    async def test() -> None:
        reception, _ = given(Process())
        contexts, tasks = reads(reception, 6)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sum(context.asked for context in contexts) == 4
        await becomes(lambda: all(context.asked for context in contexts))  # the process has not grown: they are only slow
        for context in contexts:
            context.request.set_result(b"x")
        assert await asyncio.gather(*tasks) == [b"x"] * 6

    run(test())


def test_requests_wait_while_the_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)

    async def test() -> None:
        process = Process()
        reception, service = given(process)
        first, tasks = reads(reception, 1)
        await becomes(lambda: first[0].asked)
        service.pending_bytes = LIMIT  # so that one more could be too many
        process.resident += LIMIT // 2 + 1
        second, more = reads(reception, 1)
        await asyncio.sleep(0.1)
        assert not second[0].asked
        assert process.trims
        process.resident = 10_000
        await becomes(lambda: second[0].asked)
        service.pending_bytes = 0
        for context in (*first, *second):
            context.request.set_result(b"x")
        assert await asyncio.gather(*tasks, *more) == [b"x"] * 2

    run(test())


def test_the_newest_are_ended_where_the_process_has_grown_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE_STEPS", 1)

    async def test() -> None:
        process = Process()
        reception, _ = given(process)
        older, tasks = reads(reception, 4)
        await asyncio.sleep(0.05)
        newer, more = reads(reception, 3)
        await becomes(lambda: all(context.asked for context in newer))
        await becomes(lambda: min(reading.steps for reading in reception._readings) > module.YOUNG_STEPS)
        process.short_until = lambda: len(ended(tasks + more)) >= 3
        await becomes(lambda: len(ended(more)) == 3)
        for task in more:
            with pytest.raises(QueueFullError, match="max_pending_bytes"):
                task.result()
        for context in older:
            context.request.set_result(b"x")
        assert (await asyncio.gather(*tasks))[0] == b"x"
        # Reading goes on until the call has ended: gRPC frees what has come only to one who takes it.
        assert len(reception._tasks) == 3
        for context in newer:
            context.request.set_result(grpc.aio.EOF)
        await becomes(lambda: not reception._tasks)

    run(test())


def test_those_that_have_stalled_are_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE_STEPS", 1)
    monkeypatch.setattr(module, "STALLED_STEPS", 15)
    monkeypatch.setattr(module, "PORTION", 5)

    async def test() -> None:
        process = Process()
        reception, _ = given(process)
        _, stalled = reads(reception, 5)
        await becomes(lambda: reception._readings and min(reading.steps for reading in reception._readings) > 15)
        newer, more = reads(reception, 1)
        await becomes(lambda: newer[0].asked)
        await asyncio.sleep(0.05)
        process.short_until = lambda: bool(ended(stalled + more))
        await becomes(lambda: ended(stalled + more))
        assert (len(ended(stalled)), len(ended(more))) == (1, 0)
        for task in (*stalled, *more):
            task.cancel()

    run(test())


def test_a_complete_request_for_which_there_is_no_room_is_let_go() -> None:
    async def test() -> None:
        reception, service = given(Process())
        contexts, tasks = reads(reception, 2)
        await becomes(lambda: all(context.asked for context in contexts))
        service.pending_bytes = LIMIT - 150
        for context in contexts:
            context.request.set_result(b"x" * 100)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found[0] == b"x" * 100
        assert isinstance(found[1], QueueFullError)
        assert reception._unclaimed == 0

    run(test())


def test_loading_a_model_is_not_taken_for_requests() -> None:
    async def test() -> None:
        process = Process()
        reception, service = given(process)
        contexts, tasks = reads(reception, 5)
        await asyncio.sleep(0.05)
        service.repository.append(SimpleNamespace(served="a model"))
        process.resident += 10 * LIMIT
        await asyncio.sleep(0.2)
        for context in contexts:
            context.request.set_result(b"x")
        assert await asyncio.gather(*tasks) == [b"x"] * 5

    run(test())


def test_memory_of_this_process() -> None:
    size = resident_bytes()
    assert size is None or size > 2**20
    give_back()


# The codec


def large(**more: Any) -> Any:
    return message("m", np.arange(40_000, dtype=np.float32).reshape(2, 20_000), **more)


def test_large_tensors_are_not_copied() -> None:
    request = large(id="7")
    request.parameters["timeout"].int64_param = 5
    raw = request.SerializeToString()
    found, tensors = parse_request(raw, 1000)
    assert (found.id, found.model_name, len(found.raw_input_contents)) == ("7", "m", 0)
    decoded = decode(found, tensors, None, 0)
    x = decoded.inputs["x"]
    np.testing.assert_array_equal(x.ravel(), np.arange(40_000))
    assert np.shares_memory(x, np.frombuffer(raw, np.uint8))
    assert decoded.timeout_us == 5


def test_small_objects_do_not_fill_the_memory() -> None:
    request = large()
    request.inputs.extend([pb.ModelInferRequest.InferInputTensor()] * 600)
    with pytest.raises(TooLargeError, match="beside raw_input_contents"):
        parse_request(request.SerializeToString(), 1000)
    with pytest.raises(InvalidRequestError):
        parse_request(b"\x3a\x00" * 70_000, 10**6)  # raw tensors without a byte


@pytest.mark.parametrize("end", [b"\x3a", b"\x3a\xff", b"\x0b", b"\x3a\x05abc", b"\x0d\x01", b"\xff" * 12])
def test_large_requests_that_are_none(end: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"not a valid inference\.ModelInferRequest"):
        parse_request(large().SerializeToString() + end, 1000)


# The server


@pytest.fixture(scope="module")
def server(running: Running, tables: dict[str, Any]) -> Run:
    models = {name: tables[name] for name in ("linear", "slow")}
    return running(models, http_port=-1, max_request_bytes=500_000, max_pending_bytes=1_000_000)


def test_both_ways_give_the_same(server: Run) -> None:
    with stub(server) as call, stuck(server):
        x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
        waiting = [begin(call, message("slow", np.zeros((1, 400, 4), np.float32))) for _ in range(3)]
        found = [begin(call, message("linear", x)) for _ in range(40)]
        answers = [array(one.result()) for one in found]
        for one in answers:
            np.testing.assert_array_equal(one, answers[0])
    for one in waiting:
        one.result()


def test_a_call_without_a_request(server: Run) -> None:
    """Stalled calls take the cheap places, so that the next one is received in the other way."""
    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        release: list[Any] = []

        def nothing() -> Any:
            while not release:
                time.sleep(0.01)
            yield from ()

        stalled = [method.future(nothing()) for _ in range(3)]
        with fails("INVALID_ARGUMENT", "without a request"):
            method(iter(()), timeout=20)
        with client(server) as made:  # and the others are answered
            assert made.infer("linear", [tensor("x", ROW)]).as_numpy("y").shape == (1, 4)
        release.append(True)
        for one in stalled:
            one.cancel()


def test_a_request_that_does_not_come_ends_at_the_deadline(running: Running, tables: dict[str, Any]) -> None:
    limits = {"max_request_bytes": 500_000, "max_pending_bytes": 1_000_000, "request_timeout_s": 0.3}
    server = running({"linear": tables["linear"]}, http_port=-1, **limits)
    over = threading.Event()

    def nothing() -> Any:
        over.wait(30)
        yield from ()

    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        stalled = [method.future(nothing(), timeout=20) for _ in range(2)]
        found = [one.exception(20) for one in stalled[1:]]  # the first has the cheap place, which has no limit but its client's
        assert "deadline exceeded: the request was not complete" in str(found[0])
        assert server.service.refused == {"deadline": 1}
        over.set()
        stalled[0].cancel()
    server.stop()


def test_inputs_are_freed_when_the_request_has_ended() -> None:
    """Not with the next collection of garbage, which may be long in coming once the models are loaded."""
    from tests.serve.test_queueing import Bench

    async def test() -> None:
        bench = Bench()
        x = np.ones((2, 1))
        dead = weakref.ref(x)
        pending = bench.batcher.submit({"x": x}, asyncio.get_running_loop().time() + 20)
        del x
        await pending.future
        del pending
        await becomes(lambda: dead() is None)

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()
