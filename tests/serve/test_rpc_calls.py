"""gRPC calls in time: cancelled, late, many at once, and in streams."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.serve import repository
from opau_onnx.serve.rpc import infer
from tests.serve.conftest import Run, Running
from tests.serve.rpc_server import (
    ROW,
    SERVICE,
    SLOW,
    array,
    begin,
    fails,
    message,
    stream,
    stub,
    stuck,
    tensor,
    until,
)


@pytest.fixture(scope="module")
def server(running: Running, tables: dict[str, Any]) -> Run:
    names = ("linear", "gather", "slow")
    return running({name: table for name, table in tables.items() if name in names}, http_port=-1)


def test_a_cancelled_call_leaves_the_queue(call: Any, server: Run) -> None:
    with stuck(server) as served:
        ran, cancelled = served.statistics.executions, served.statistics.errors["cancelled"]
        first = begin(call, SLOW)
        until(lambda: not served.batcher._free)
        others = [begin(call, SLOW) for _ in range(3)]
        until(lambda: served.batcher.waiting == 3)
        for late in others:
            late.cancel()
        until(lambda: served.batcher.waiting == 0)
    assert served.statistics.errors["cancelled"] == cancelled + 3
    assert first.result().model_name == "slow"
    assert served.statistics.executions == ran + 1
    until(lambda: not server.service.pending_bytes)


def test_a_call_that_is_cancelled_while_it_runs_is_thrown_away(call: Any, server: Run) -> None:
    with stuck(server) as served:
        answered, cancelled = served.statistics.success.count, served.statistics.errors["cancelled"]
        running = begin(call, SLOW)
        until(lambda: not served.batcher._free)
        running.cancel()
        until(lambda: served.statistics.errors["cancelled"] == cancelled + 1)
    assert served.statistics.success.count == answered


def test_a_full_queue_refuses(call: Any, server: Run) -> None:
    with stuck(server):
        calls = [begin(call, SLOW) for _ in range(12)]
        until(lambda: sum(one.done() for one in calls) == 8)
    codes = Counter(one.code() for one in calls)
    assert codes == {grpc.StatusCode.OK: 4, grpc.StatusCode.RESOURCE_EXHAUSTED: 8}
    refused = next(one for one in calls if one.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refused.details() == "queue full: 3 requests are waiting for this model (max_queue); try again later"


@pytest.mark.parametrize("by", ["the call", "a parameter", "the shorter of both"])
def test_a_deadline_is_honoured(call: Any, server: Run, by: str) -> None:
    with stuck(server) as served:
        ran = served.statistics.executions
        others = [begin(call, SLOW) for _ in range(2)]
        until(lambda: served.batcher.waiting == 1)
        request = message("slow", np.zeros((1, 400, 4), np.float32))
        if by != "the call":
            request.parameters["timeout"].int64_param = 2000
        late = begin(call, request, {"the call": 0.1, "a parameter": None, "the shorter of both": 50}[by])
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: served.batcher.waiting == 1)
    assert [other.code() for other in others] == [grpc.StatusCode.OK] * 2
    assert served.statistics.executions == ran + 2


def test_the_server_has_a_deadline_of_its_own(running: Running, folder: Path) -> None:
    server = running({"slow": {"path": folder / "slow.onnx", "max_batch_size": 0}}, http_port=-1, request_timeout_s=0.001)
    with stub(server) as call, fails("DEADLINE_EXCEEDED", "deadline exceeded"):
        call("ModelInfer", SLOW)
    server.stop()


def test_a_bad_request_fails_alone(call: Any) -> None:
    """Its neighbours in the batch get their responses."""
    wanted = [np.array([i % 4, (i + 1) % 4] if i % 5 else [i % 4, 99]) for i in range(40)]
    calls = [begin(call, message("gather", x, "INT64", "i")) for x in wanted]
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    for i, (one, x) in enumerate(zip(calls, wanted, strict=True)):
        if i % 5:
            np.testing.assert_array_equal(array(one.result()), table[x])
        else:
            assert one.code() is grpc.StatusCode.INTERNAL


def test_rows_never_mix_between_64_clients(server: Run) -> None:
    async def one(ask: Callable[..., Awaitable[bytes]], number: int) -> None:
        random = np.random.default_rng(number)
        for turn in range(8):
            x = np.full((int(random.integers(1, 5 if turn else 80)), 4), number + turn / 16, np.float32)
            x[:, 0] = np.arange(len(x))
            chunks.append(-(-len(x) // 32))
            got = array(await ask(message("linear", x)))
            np.testing.assert_array_equal(got, 2 * x + 1)

    async def all_of_them() -> None:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            ask = channel.unary_unary(
                SERVICE + "ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
            )
            await asyncio.gather(*(one(ask, i) for i in range(64)))

    chunks: list[int] = []
    statistics = server.service.repository.get("linear").statistics
    before = statistics.executions
    server.do(all_of_them())
    assert statistics.executions - before < sum(chunks)  # some did run together


def test_a_stream_answers_in_order(server: Run) -> None:
    with stream(server) as (made, answers):
        for i in range(200):
            made.async_stream_infer("linear", [tensor("x", np.full((1 + i % 3, 4), i, np.float32))], request_id=str(i))
        for i in range(200):
            result = answers.get(timeout=60)
            assert result.get_response().id == str(i)
            assert result.get_response().parameters["triton_final_response"].bool_param
            np.testing.assert_array_equal(result.as_numpy("y"), np.full((1 + i % 3, 4), 2 * i + 1))


def test_requests_of_a_stream_run_together(server: Run) -> None:
    statistics = server.service.repository.get("linear").statistics
    before = statistics.executions

    async def ask() -> int:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            open_stream = channel.stream_stream(SERVICE + "ModelStreamInfer", pb.ModelInferRequest.SerializeToString)
            return len([raw async for raw in open_stream(iter([message("linear", ROW)] * 100))])

    assert server.do(ask()) == 100
    assert statistics.executions - before < 100


def test_an_error_in_a_stream_ends_that_request_alone(server: Run) -> None:
    requests = [
        message("linear", ROW, id="a"),
        message("linear", ROW[0], id="b"),
        b"\xff\xff",
        message("nobody", ROW, id="c"),
        message("linear", ROW, id="d"),
    ]
    with grpc.insecure_channel(server.grpc) as channel:
        open_stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
        raw = [one if isinstance(one, bytes) else one.SerializeToString() for one in requests]
        answers = list(open_stream(iter(raw), timeout=60))
    assert [answer.infer_response.id for answer in answers] == ["a", "", "", "", "d"]
    told = [answer.error_message for answer in answers]
    assert told[0] == told[4] == ""
    assert told[1].startswith("[INVALID_ARGUMENT] input 'x' has shape [4]; expected [-1, 4]")
    assert told[2] == "[INVALID_ARGUMENT] the request is not a valid inference.ModelInferRequest"
    assert told[3].startswith("[NOT_FOUND] unknown model 'nobody'")


def test_a_stream_is_read_no_further_than_its_depth(server: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "STREAM_DEPTH", 2)
    served = server.service.repository.get("slow")
    waiting = []

    def requests() -> Iterator[bytes]:
        for _ in range(8):
            yield SLOW.SerializeToString()
            waiting.append(served.batcher.waiting)

    with grpc.insecure_channel(server.grpc) as channel:
        open_stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
        answers = []
        for answer in open_stream(requests(), timeout=60):
            answers.append(answer.error_message)
            waiting.append(served.batcher.waiting)
    assert answers == [""] * 8  # none was refused, though the queue has 3 places
    assert max(waiting) <= 2


def test_a_cancelled_stream_leaves_the_queue(server: Run) -> None:
    open_end = threading.Event()

    def requests() -> Iterator[bytes]:
        for _ in range(4):
            yield SLOW.SerializeToString()
        open_end.wait(60)

    with stuck(server) as served, grpc.insecure_channel(server.grpc) as channel:
        ran, cancelled = served.statistics.executions, served.statistics.errors["cancelled"]
        answers = channel.stream_stream(SERVICE + "ModelStreamInfer")(requests())
        until(lambda: served.batcher.waiting == 3)
        answers.cancel()
        until(lambda: served.batcher.waiting == 0)
        open_end.set()
    assert served.statistics.errors["cancelled"] == cancelled + 4
    assert served.statistics.executions == ran + 1
    until(lambda: not server.service.pending_bytes)


def test_a_client_that_goes_away_does_not_stop_a_load(running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = running({"linear": {"path": folder / "linear.onnx", "load": False}}, http_port=-1)
    entry = server.service.repository.entry("linear")
    go, prepare = threading.Event(), repository.prepare

    def wait(*about: Any) -> Any:
        go.wait(60)
        return prepare(*about)

    monkeypatch.setattr(repository, "prepare", wait)
    with stub(server) as call:
        request = pb.RepositoryModelLoadRequest(model_name="linear").SerializeToString()
        loading = call.channel.unary_unary(SERVICE + "RepositoryModelLoad").future(request)
        until(lambda: entry.state == "LOADING")
        loading.cancel()
        until(lambda: not server.server._rpc._gate.active)
        assert entry.state == "LOADING"
        go.set()
        until(lambda: entry.state == "READY")
    server.stop()


def test_a_port_that_is_taken(running: Running, server: Run, folder: Path) -> None:
    from opau_onnx.errors import LoadError

    with pytest.raises(LoadError, match=rf"port {server.grpc_port}: .*in use; choose another with --grpc-port"):
        running({"linear": folder / "linear.onnx"}, http_port=-1, grpc_port=server.grpc_port)
    with pytest.raises(LoadError, match=r"192\.0\.2\.1, port 0: "):
        running({"linear": folder / "linear.onnx"}, http_port=-1, host="192.0.2.1")


def test_an_address_of_ipv6(running: Running, folder: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = running({"linear": folder / "linear.onnx"}, http_port=-1, host="::1")
    with triton.InferenceServerClient(f"[::1]:{server.grpc_port}") as made:
        assert made.is_server_ready()
    server.stop()
