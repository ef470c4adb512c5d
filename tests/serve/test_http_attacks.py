"""One client does not stop the others: bodies that are dear to read, or that never come."""

from __future__ import annotations

import gzip
import json
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opau_onnx.serve.http import infer
from tests.serve.conftest import Run, Running
from tests.serve.http_client import LINEAR, call, models, simple

PENDING = 4_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(running: Running, folder: Path) -> Run:
    return running(models(folder), max_request_bytes=3_000_000, max_json_bytes=500_000, max_pending_bytes=PENDING)


def answers(server: Run) -> bool:
    return call(server, "POST", LINEAR, simple([[1, 2, 3, 4]]))[0] == 200


def with_data(data: bytes, shape: list[int]) -> bytes:
    head = json.dumps({"name": "x", "shape": shape, "datatype": "FP32"})[:-1]
    return b'{"inputs": [' + head.encode() + b', "data": ' + data + b"}]}"


def test_json_has_a_limit_of_its_own(server: Run) -> None:
    content = with_data(b"[" + b"0," * 300_000 + b"0]", [75_000, 4])
    status, answer, _ = call(server, "POST", LINEAR, content)
    assert (status, "max_json_bytes" in answer["error"]) == (413, True)
    status, answer, _ = call(server, "POST", LINEAR, content, Inference_Header_Content_Length=str(len(content)))
    assert (status, "max_json_bytes" in answer["error"]) == (413, True)
    for path in ("index", "models/linear/load"):
        assert call(server, "POST", f"/v2/repository/{path}", b'{"a": "' + b"x" * 600_000 + b'"}')[0] == 413
    x = np.zeros((40_000, 4), np.float32)  # as bytes it may be larger
    head = json.dumps(
        {"inputs": [{"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}]}
    )
    body = head.encode() + x.tobytes()
    assert call(server, "POST", LINEAR, body, Inference_Header_Content_Length=str(len(head)))[0] == 200


def test_compressed_json_has_it_too(server: Run) -> None:
    content = gzip.compress(with_data(b"[" + b"[]," * 200_000 + b"[]]", [4]))
    status, answer, _ = call(server, "POST", LINEAR, content, Content_Encoding="gzip")
    assert (status, "bytes of JSON" in answer["error"]) == (413, True)


def test_a_body_may_not_expand_without_end(server: Run) -> None:
    content = gzip.compress(b"0" * 2_900_000)
    status, answer, _ = call(server, "POST", LINEAR, content, Content_Encoding="gzip", Inference_Header_Content_Length="0")
    assert (status, "100 times" in answer["error"]) == (413, True)
    assert server.service.pending_bytes == 0


@pytest.mark.parametrize("nan", [b"", b", NaN"])
def test_lists_that_the_shape_does_not_have_are_not_read(server: Run, nan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from opau_onnx.serve.http import codec, messages

    def never(*_: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(codec, "_flat", never)
    monkeypatch.setattr(messages, "json", SimpleNamespace(loads=never))
    status, answer, _ = call(server, "POST", LINEAR, with_data(b"[" + b"[]," * 100_000 + b"[]" + nan + b"]", [1, 4]))
    assert (status, "lists" in answer["error"] or "flat data" in answer["error"]) == (400, True)


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3"])
def test_a_header_length_that_is_none(server: Run, length: str) -> None:
    status, answer, _ = call(server, "POST", LINEAR, b"{}", Inference_Header_Content_Length=length)
    assert (status, "expected a number of bytes" in answer["error"]) == (400, True)


def test_parameters_are_no_nested_lists(server: Run) -> None:
    request = {**simple([[1, 2, 3, 4]]), "parameters": {"a": [[]] * 10}}
    status, answer, _ = call(server, "POST", LINEAR, request)
    assert (status, "parameters" in answer["error"]) == (400, True)


def test_values_in_several_parts(server: Run) -> None:
    x = np.arange(80_000, dtype=np.float32).reshape(-1, 4) % 10
    x[-1] = [np.nan, np.inf, -np.inf, 0]
    for data in (x.ravel().tolist(), x[:-1].ravel().tolist(), x[:-1].tolist()):
        rows = np.array(data).size // 4
        status, answer, _ = call(server, "POST", LINEAR, simple(data, shape=[rows, 4]))
        assert status == 200
        np.testing.assert_array_equal(np.float32(answer["outputs"][0]["data"]), (2 * x[:rows] + 1).ravel())


@pytest.mark.parametrize("what", ["decode", "_encoded"])
def test_other_clients_are_answered_while_a_large_body_is_worked_on(
    server: Run, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, real = threading.Event(), threading.Event(), getattr(infer, what)

    def slowly(*arguments: Any) -> Any:
        if threading.current_thread().name.startswith("opau-codec"):
            begun.set()
            assert go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(infer, what, slowly)
    x = np.zeros((12_000, 4), np.float32)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(call, server, "POST", LINEAR, simple(x.ravel().tolist(), shape=list(x.shape)))
        assert begun.wait(30)
        assert call(server, "GET", "/v2/health/live")[0] == 200
        assert answers(server)
        go_on.set()
        assert large.result()[0] == 200


def test_only_what_has_arrived_is_counted(server: Run) -> None:
    """Clients that announce a lot, or say nothing of the size, and send a little."""
    length = b"Content-Length: 2900000\r\nInference-Header-Content-Length: 2\r\n\r\n{}"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    made = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(32)]
    for number, client in enumerate(made):
        client.sendall(b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\n" + (length if number % 2 else chunked))
    until = time.monotonic() + 30
    while server.service.pending_bytes < 64 and time.monotonic() < until:
        time.sleep(0.01)
    assert server.service.pending_bytes == 64
    assert answers(server)
    for client in made:
        client.close()


def test_what_has_arrived_is_refused_beyond_the_limit(server: Run) -> None:
    head = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2900000\r\nInference-Header-Content-Length: 0"
    made = [socket.create_connection(("127.0.0.1", server.http_port), timeout=30) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda client: client.sendall(head + b"\r\n\r\n" + b"\0" * 1_500_000), made))
    refused, _, _ = select.select(made, [], [], 30)
    assert refused
    assert all(b" 429 " in client.recv(100).split(b"\r\n")[0] for client in refused)
    assert server.service.pending_bytes <= PENDING
    for client in made:
        client.close()
