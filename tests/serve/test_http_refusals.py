"""What the HTTP server refuses, and how: bad, large and unauthorized requests, and bytes that are none."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve import nets
from tests.serve.conftest import Run, Running
from tests.serve.http_client import LINEAR, call, models, simple


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(running: Running, folder: Path) -> Run:
    return running(models(folder), max_request_bytes=1_000_000)


FAILURES: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/v2/models/nobody", None, 404, "unknown model 'nobody'; this server has linear"),
    ("GET", "/v2/models/linear/versions/7", None, 404, "no version '7'; it has version '1'"),
    ("POST", "/v2/models/nobody/infer", simple([[1, 2, 3, 4]]), 404, "unknown model"),
    ("POST", "/v2/models/linear/versions/2/infer", simple([[1, 2, 3, 4]]), 404, "no version"),
    ("POST", LINEAR, b"", 400, "JSON"),
    ("POST", LINEAR, b"\x80\x81", 400, "JSON"),
    ("POST", LINEAR, simple([[1, 2, 3]]), 400, r"shape \[1, 3\]; expected \[-1, 4\]"),
    ("POST", LINEAR, simple([1, 2, 3, 4]), 400, "shape"),
    ("POST", LINEAR, simple([], shape=[0, 4]), 400, "no rows"),
    ("POST", LINEAR, simple([[1, 2, 3, 4]], "INT32"), 400, "is INT32; expected FP32"),
    ("POST", LINEAR, simple([[1, 2, 3, 4]], name="X"), 400, r"input 'x' is missing; expected x: FP32 \[-1, 4\]"),
    ("POST", LINEAR, {"inputs": simple([[1, 2, 3, 4]])["inputs"] * 1 + simple([1], name="z")["inputs"]}, 400, "no input 'z'"),
    ("POST", LINEAR, simple([[1, 2, 3, 4]], outputs=[{"name": "z"}]), 400, "no output 'z'; it has y"),
    ("POST", "/v2/models/gather/infer", simple([7], "INT64", "i"), 500, "could not be run on this input"),
    ("POST", "/v2/models/asleep/infer", simple([[1, 2, 3, 4]]), 503, "unavailable"),
    ("GET", LINEAR, None, 405, "Method Not Allowed"),
    ("GET", "/v2/nothing", None, 404, "Not Found"),
    ("GET", "/", None, 404, "Not Found"),
    ("POST", "/v2/repository/index", b"[1]", 400, "not a JSON object"),
    ("POST", "/v2/repository/models/nobody/load", None, 404, "unknown model"),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_failures(server: Run, number: int) -> None:
    method, path, body, status, message = FAILURES[number]
    got, answer, headers = call(server, method, path, body)
    assert got == status, answer
    assert headers["content-type"] == "application/json"
    assert re.search(message, answer["error"]), answer


def test_different_rows_in_the_inputs(server: Run) -> None:
    inputs = simple([[1, 2]], name="a")["inputs"] + simple([[1], [2]], name="b")["inputs"]
    status, answer, _ = call(server, "POST", "/v2/models/pair/infer", {"inputs": inputs})
    assert status == 400
    assert "different numbers of rows: {'a': 1, 'b': 2}" in answer["error"]


def test_a_bad_request_fails_alone(server: Run) -> None:
    """Its neighbours in the batch get their responses."""
    bodies = [simple([i % 4, (i + 1) % 4] if i % 5 else [i % 4, 99], "INT64", "i") for i in range(40)]
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda body: call(server, "POST", "/v2/models/gather/infer", body), bodies))
    for i, (status, answer, _) in enumerate(answers):
        if i % 5 == 0:
            assert status == 500
        else:
            rows = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
            assert (status, answer["outputs"][0]["data"]) == (200, rows[i % 4] + rows[(i + 1) % 4])


def test_too_large(server: Run) -> None:
    x = np.zeros((100_000, 4), np.float32)
    for body in (x.tobytes(), json.dumps(simple(x.tolist())).encode()):
        status, answer, _ = call(server, "POST", LINEAR, body)
        assert status == 413
        assert "1000000" in answer["error"]


def test_too_large_once_decompressed(server: Run) -> None:
    bomb = gzip.compress(b"[" * 3_000_000)
    assert len(bomb) < 10_000
    status, answer, _ = call(server, "POST", LINEAR, bomb, Content_Encoding="gzip")
    assert (status, "decompressed" in answer["error"]) == (413, True)
    for body, encoding, message in [
        (b"nonsense", "gzip", "cannot be decompressed"),
        (zlib.compress(b"{}" * 1000)[:-5], "deflate", "too early"),
        (b"{}", "br", "expected gzip or deflate"),
    ]:
        status, answer, _ = call(server, "POST", LINEAR, body, Content_Encoding=encoding)
        assert (status, message in answer["error"]) == (400, True), answer


def test_chunks(server: Run) -> None:
    content = json.dumps(simple([[1, 2, 3, 4]])).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    connection.request("POST", LINEAR, iter([content[:10], content[10:]]), encode_chunked=True)
    assert json.loads(connection.getresponse().read())["outputs"][0]["data"] == [3.0, 5.0, 7.0, 9.0]
    connection.request("POST", LINEAR, iter([b"x" * 100_000] * 11), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert server.service.pending_bytes == 0


def test_token(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, token_file=str(tmp_path / "token"))
    assert call(server, "GET", "/v2/health/live")[0] == 200
    assert call(server, "GET", "/v2/health/ready")[0] == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}, {"Authorization": "Basic s3cret"}):
        for method, path in (("GET", "/v2/models/m"), ("POST", "/v2/models/m/infer"), ("GET", "/metrics")):
            status, answer, told = call(server, method, path, None if method == "GET" else simple([[1, 2, 3, 4]]), **headers)
            assert status == 401
            assert "Bearer" in answer["error"]
            assert told["www-authenticate"] == "Bearer"
    assert call(server, "GET", "/v2/models/m", Authorization="Bearer s3cret")[0] == 200
    assert server.service.refused == {"unauthenticated": 12}
    server.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["linear", "pair", "gather", "fixed", "half", "bool", "%00", "x" * 300]),
    st.binary(max_size=300),
    st.none() | st.integers(-5, 500) | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=5),
    st.sampled_from([None, "gzip", "deflate", "identity", "br"]),
)
def test_any_bytes_are_answered(server: Run, model: str, body: bytes, length: Any, encoding: str | None) -> None:
    headers = {} if length is None else {"Inference_Header_Content_Length": str(length)}
    headers |= {"Content_Encoding": encoding} if encoding else {}
    status, _, _ = call(server, "POST", f"/v2/models/{model}/infer", body, **headers)
    assert status in (200, 400, 404, 405, 413)
    assert call(server, "GET", "/v2/health/live")[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v2/models/linear/infer HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -4\r\n\r\n",
    ],
)
def test_what_is_not_http_closes_its_connection_only(server: Run, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as connection:
        connection.sendall(raw)
        assert b"400" in connection.recv(1000).split(b"\r\n")[0]
    assert call(server, "GET", "/v2/health/live")[0] == 200


def test_what_onnxruntime_says_goes_through_the_log(
    server: Run, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    status, _, _ = call(server, "POST", "/v2/models/gather/infer", simple([9], "INT64", "i"))
    assert status == 500
    assert "onnxruntime" not in capfd.readouterr().err
    assert "onnxruntime failed on a request" in caplog.text
