"""HTTP connections: endless heads, clients that say or read nothing, too many of them, and the end of the server."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opau_onnx.serve import sockets
from tests.serve import nets
from tests.serve.conftest import Run, Running
from tests.serve.http_client import LINEAR, call, simple

POST = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\n"
WIDE = 5_000_000
"""Numbers of a row that has 20 MB, more than the sockets' buffers."""
Connect = Callable[[Run], socket.socket]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(running: Running, folder: Path) -> Run:
    return running(served(folder), grpc_port=-1)


def served(folder: Path) -> dict[str, Any]:
    wide = {"path": nets.linear(folder / "wide.onnx", features=WIDE), "max_batch_size": 0}
    return {"linear": nets.linear(folder / "linear.onnx"), "wide": wide}


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[socket.socket] = []

    def new(server: Run) -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", server.http_port), timeout=60))
        return made[-1]

    yield new
    for one in made:
        one.close()


def said(client: socket.socket, most: int = 2**30) -> bytes:
    """All that the server says until it ends the connection."""
    found = bytearray()
    try:
        while len(found) < most and (part := client.recv(2**20)):
            found += part
    except ConnectionError:
        pass
    return bytes(found)


def alive(server: Run) -> bool:
    return call(server, "POST", LINEAR, simple([[1, 2, 3, 4]]))[0] == 200


def flood(client: socket.socket, part: bytes, times: int) -> None:
    try:
        for _ in range(times):
            client.sendall(part)
    except OSError:  # the server has ended the connection
        pass


@pytest.mark.parametrize(
    ("head", "part", "times"),
    [
        pytest.param(POST + b"A: ", b"a" * 65536, 400, id="one long header"),
        pytest.param(POST, b"A: b\r\n", 5000, id="many headers"),
        pytest.param(b"GET /", b"a" * 65536, 400, id="a long address"),
        pytest.param(POST + b"B: " + b"b" * 40_000 + b"\r\n\r\n", b"", 1, id="a head in one chunk"),
    ],
)
def test_heads_have_a_size(server: Run, connect: Connect, head: bytes, part: bytes, times: int) -> None:
    client = connect(server)
    flood(client, head, 1)
    sender = threading.Thread(target=flood, args=(client, part, times))
    sender.start()
    answer = said(client)
    sender.join()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'{"error":' in answer
    assert alive(server)


@pytest.mark.parametrize("part", [b"a" * 65536, b"A: b\r\n" * 10_000], ids=["one trailer", "many trailers"])
def test_trailers_have_a_size(server: Run, connect: Connect, part: bytes) -> None:
    """Behind a chunked body headers may come again."""
    client = connect(server)
    flood(client, POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: ", 1)
    sender = threading.Thread(target=flood, args=(client, part, 400))
    sender.start()
    said(client)
    sender.join()  # it ends, since the server has ended the connection
    assert alive(server)


def test_a_request_in_tiny_chunks_and_pieces(server: Run, connect: Connect) -> None:
    client = connect(server)
    body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}' + b" " * 20_000
    whole = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    whole += b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nTrailer: x\r\n\r\n"
    for start in range(0, len(whole), 5000):
        client.sendall(whole[start : start + 5000])
    assert said(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("part", [b"", b"POST /v2/mod", POST], ids=["nothing", "half a line", "half a head"])
def test_a_head_must_arrive_in_time(server: Run, connect: Connect, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.server.http_limits is not None
    monkeypatch.setattr(server.server.http_limits, "head_seconds", 0.2)
    client = connect(server)
    client.sendall(part)
    assert said(client).startswith(b"HTTP/1.1 408 ")
    client = connect(server)  # the next request on a connection, too
    client.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    client.sendall(part or b"G")
    assert said(client).startswith(b"HTTP/1.1 408 ")


def test_a_body_must_arrive_in_time(server: Run, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was refused before all of it was there."""
    assert server.server.http_limits is not None
    monkeypatch.setattr(server.server.http_limits, "body_seconds", 0.2)
    client = connect(server)
    client.sendall(POST + b"Content-Length: 99000000\r\n\r\n{")
    assert b" 413 " in said(client)


def test_a_client_that_reads_nothing_is_given_up(server: Run, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.server.http_limits is not None
    monkeypatch.setattr(server.server.http_limits, "send_seconds", 0.2)
    client = connect(server)
    _ask(client)
    assert server.server._http is not None
    state = server.server._http.server_state
    until = time.monotonic() + 60
    while state.total_requests == 0 or state.connections:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(said(client)) < 4 * WIDE


def _ask(client: socket.socket) -> None:
    """For a response of 20 MB."""
    head = b"Content-Length: %d\r\nInference-Header-Content-Length: 0\r\n\r\n" % (4 * WIDE)
    client.sendall(POST.replace(b"linear", b"wide") + head + bytes(4 * WIDE))


def test_the_end_does_not_cut_an_answer(running: Running, folder: Path, connect: Connect) -> None:
    """Its client begins to read seconds after SIGTERM."""
    ending = running(served(folder), grpc_port=-1)
    client = connect(ending)
    _ask(client)
    assert ending.server._http is not None
    while ending.server._http.server_state.total_requests == 0:
        time.sleep(0.01)
    stopping = ending.begin(ending.server.stop(0.0))
    time.sleep(3.0)
    assert not stopping.done()
    head, _, body = said(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert len(body) >= 4 * WIDE
    stopping.result(60)
    ending.stopped = True


@pytest.mark.parametrize("state", ["silent", "half a head", "a stalled upload", "a response that is not read"])
def test_the_end_is_bounded(running: Running, folder: Path, connect: Connect, state: str) -> None:
    ending = running(served(folder), grpc_port=-1, drain_timeout_s=0.5, request_timeout_s=1000)
    client = connect(ending)
    if state == "half a head":
        client.sendall(POST)
    elif state == "a stalled upload":
        client.sendall(POST + b"Content-Length: 1000\r\n\r\n{")
    elif state == "a response that is not read":
        _ask(client)
    time.sleep(0.2)
    ending.begin(ending.server.stop()).result(60)
    ending.stopped = True


def test_too_many_connections(running: Running, folder: Path, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    limited = running({"linear": nets.linear(folder / "linear.onnx")}, grpc_port=-1, max_connections=4)
    good = [connect(limited) for _ in range(2)]

    def works(client: socket.socket) -> bool:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        return client.recv(1000).startswith(b"HTTP/1.1 200 ")

    assert all(map(works, good))
    silent = [connect(limited) for _ in range(20)]
    assert all(map(works, good))
    assert alive(limited)  # in the place of the oldest silent one
    assert said(silent[0]) == b""
    more = [connect(limited), connect(limited)]
    assert all(map(works, more))
    last = connect(limited)
    assert said(last).startswith(b"HTTP/1.1 503 ")
    assert all(map(works, [*good, *more]))
    until = time.monotonic() + 30
    while "too many HTTP connections" not in caplog.text and time.monotonic() < until:
        time.sleep(0.05)
    assert "too many HTTP connections" in caplog.text


def test_the_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource; from opau_onnx.serve.sockets import connections\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024)); print(connections(300), connections(10_000))\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:2] == [f"300 {(1024 - sockets.RESERVED) // 2}", "(1024, 1024)"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
