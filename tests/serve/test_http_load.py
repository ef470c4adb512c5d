"""HTTP requests in time: many at once, late, given up, and while a model is replaced or the server ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve import nets
from tests.serve.conftest import Run, Running
from tests.serve.http_client import LINEAR, call, models, simple


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(running: Running, folder: Path) -> Run:
    return running(models(folder), max_request_bytes=1_000_000)


SLOW = simple(np.zeros((1, 400, 4)).tolist())


def test_a_full_queue_refuses(server: Run) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: call(server, "POST", "/v2/models/slow/infer", SLOW), range(12)))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4
    refused = next(answer for answer in answers if answer[0] == 429)
    assert "try again" in refused[1]["error"]
    assert refused[2]["retry-after"] == "1"


def test_a_deadline_is_honoured(server: Run) -> None:
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(call, server, "POST", "/v2/models/slow/infer", SLOW) for _ in range(2)]
        time.sleep(0.02)
        status, answer, _ = call(server, "POST", "/v2/models/slow/infer", {**SLOW, "parameters": {"timeout": 1000}})
        assert (status, "deadline exceeded" in answer["error"]) == (504, True)
        assert [other.result()[0] for other in others] == [200, 200]


def test_a_client_that_goes_away_leaves_the_queue(server: Run) -> None:
    statistics = server.service.repository.get("slow").statistics
    before, ran = statistics.errors["cancelled"], statistics.executions
    content = json.dumps(SLOW).encode()
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
    sockets = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(4)]
    for made in sockets:
        made.sendall(head + content)
    time.sleep(0.03)
    for made in sockets:
        made.close()
    until = time.monotonic() + 20
    batcher = server.service.repository.get("slow").batcher
    while (batcher.waiting or not statistics.errors["cancelled"]) and time.monotonic() < until:
        time.sleep(0.01)
    assert statistics.errors["cancelled"] - before >= 1
    server.do(server.service.repository.get("slow").batcher.drain())
    assert statistics.executions - ran < 4


def test_rows_never_mix_between_64_clients(server: Run) -> None:
    import aiohttp

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        random = np.random.default_rng(number)
        for turn in range(8):
            x = np.full((int(random.integers(1, 5 if turn else 80)), 4), number + turn / 16, np.float32)
            x[:, 0] = np.arange(len(x))
            head = json.dumps(
                {
                    "inputs": [
                        {
                            "name": "x",
                            "shape": list(x.shape),
                            "datatype": "FP32",
                            "parameters": {"binary_data_size": x.nbytes},
                        }
                    ],
                    "parameters": {"binary_data_output": True},
                }
            ).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            async with session.post(f"http://{server.http}{LINEAR}", data=head + x.tobytes(), headers=headers) as answer:
                content = await answer.read()
                assert answer.status == 200
                size = int(answer.headers["Inference-Header-Content-Length"])
                got = np.frombuffer(content[size:], np.float32).reshape(x.shape)
                np.testing.assert_array_equal(got, 2 * x + 1)

    async def all_of_them() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
            await asyncio.gather(*(one(session, i) for i in range(64)))

    before = server.service.repository.get("linear").statistics.executions
    asyncio.run(all_of_them())
    ran = server.service.repository.get("linear").statistics.executions - before
    assert ran < 64 * 8  # some did run together


def test_a_file_that_is_replaced_is_swapped_without_a_failed_request(running: Running, tmp_path: Path) -> None:
    path = nets.linear(tmp_path / "m.onnx", slope=2)
    server = running({"m": path})
    body, stop, seen = simple([[1, 1, 1, 1]]), threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            status, answer, _ = call(server, "POST", "/v2/models/m/infer", body)
            seen.append((status, answer["outputs"][0]["data"][0] if status == 200 else answer))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for slope in (3, 4):
        time.sleep(0.1)
        nets.linear(path, slope=slope)
        assert call(server, "POST", "/v2/repository/models/m/load")[0] == 200
        assert call(server, "POST", "/v2/models/m/infer", body)[1]["outputs"][0]["data"][0] == slope + 1
    path.write_bytes(b"not a model")
    status, answer, _ = call(server, "POST", "/v2/repository/models/m/load")
    assert (status, "cannot be loaded" in answer["error"]) == (400, True)
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in seen} == {200}
    assert {value for _, value in seen} == {3.0, 4.0, 5.0}
    server.stop()


def test_stopping_answers_what_was_accepted(running: Running, tmp_path: Path) -> None:
    """Clients that ask again and again on kept connections: every request that goes out is answered."""
    server = running({"slow": {"path": nets.slow(tmp_path / "slow.onnx", 300), "max_batch_size": 4}})
    content = json.dumps(SLOW).encode()
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
    lost, answered = [], []

    def ask(number: int) -> None:
        with socket.create_connection(("127.0.0.1", server.http_port)) as connection, connection.makefile("rb") as stream:
            converse(number, connection, stream)

    def converse(number: int, connection: socket.socket, stream: Any) -> None:
        while True:
            connection.sendall(head + content)
            status = stream.readline()
            if not status.startswith(b"HTTP/1.1 200"):
                lost.append((number, status))
                return
            headers = {}
            while (line := stream.readline()) != b"\r\n":
                name, _, text = line.decode().partition(":")
                headers[name.lower()] = text.strip()
            stream.read(int(headers["content-length"]))
            answered.append(number)
            if headers.get("connection") == "close":
                return

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    server.stop(linger=1.0)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert lost == []
    assert set(answered) == set(range(12))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.http_port))
