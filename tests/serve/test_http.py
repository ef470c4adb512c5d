"""The Open Inference Protocol over HTTP, end to end: tritonclient against a server."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import re
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from opau_onnx.serve.tensors import DATATYPES
from tests.serve import nets
from tests.serve.conftest import Run, Running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(running: Running, folder: Path) -> Run:
    models: dict[str, Any] = {
        "linear": nets.linear(folder / "linear.onnx"),
        "gather": nets.gather(folder / "gather.onnx"),
        "fixed": nets.fixed(folder / "fixed.onnx"),
        "pair": {"path": nets.pair(folder / "pair.onnx"), "input_shapes": {"b": [1, 2]}},
        "mixing": nets.mixing(folder / "mixing.onnx"),
        "slow": {"path": nets.slow(folder / "slow.onnx"), "max_batch_size": 1, "instances": 1, "max_queue": 3},
        "asleep": {"path": nets.linear(folder / "asleep.onnx"), "load": False},
        "half": nets.identity(folder / "half.onnx", TensorProto.FLOAT16),
        "bfloat": nets.identity(folder / "bfloat.onnx", TensorProto.BFLOAT16),
        "bool": nets.identity(folder / "bool.onnx", TensorProto.BOOL),
    }
    return running(models, max_request_bytes=1_000_000)


@pytest.fixture
def client(server: Run) -> Any:
    with triton.InferenceServerClient(server.http, network_timeout=60, connection_timeout=60) as made:
        yield made


def tensor(name: str, array: np.ndarray, datatype: str = "FP32", binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def call(server: Run, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    try:
        return answer.status, json.loads(raw), dict(answer.getheaders())
    except ValueError:
        return answer.status, raw, dict(answer.getheaders())


def simple(values: list, datatype: str = "FP32", name: str = "x", shape: list | None = None, **more: Any) -> dict[str, Any]:
    shape = shape or list(np.array(values).shape)
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": values}], **more}


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary_input", [True, False])
def test_inference(client: Any, binary_input: bool, binary_output: bool) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    asked = [triton.InferRequestedOutput("y", binary_data=binary_output)]
    result = client.infer("linear", [tensor("x", x, binary=binary_input)], outputs=asked, request_id="abc")
    np.testing.assert_allclose(result.as_numpy("y"), 2 * x + 1, rtol=1e-6)
    assert result.get_response()["id"] == "abc"
    assert result.get_response()["model_version"] == "1"


def test_nan_and_infinities_are_data(client: Any) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)
    for binary in (True, False):
        asked = [triton.InferRequestedOutput("y", binary_data=binary)]
        result = client.infer("linear", [tensor("x", x, binary=binary)], outputs=asked)
        np.testing.assert_array_equal(result.as_numpy("y"), 2 * x + 1)


def test_aio(server: Run) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)

    async def ask() -> np.ndarray:
        async with triton_aio.InferenceServerClient(server.http) as client:
            result = await client.infer("linear", [tensor("x", x)])
            return result.as_numpy("y")

    np.testing.assert_array_equal(asyncio.run(ask()), 2 * x + 1)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    x = np.zeros((100, 4), np.float32)
    result = client.infer(
        "linear", [tensor("x", x)], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * x + 1)


def test_two_inputs_with_an_open_axis(client: Any) -> None:
    a, b = np.ones((3, 2), np.float32), np.arange(15, dtype=np.float32).reshape(3, 5)
    result = client.infer("pair", [tensor("b", b), tensor("a", a)])
    np.testing.assert_array_equal(result.as_numpy("sum"), 2 * a)
    np.testing.assert_array_equal(result.as_numpy("negative"), -b)


def test_outputs_in_the_order_they_are_asked_for(server: Run) -> None:
    inputs = [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "b", "shape": [1, 1], "datatype": "FP32", "data": [3]},
    ]
    status, answer, _ = call(server, "POST", "/v2/models/pair/infer", {"inputs": inputs, "outputs": [{"name": "negative"}]})
    assert status == 200
    assert [output["name"] for output in answer["outputs"]] == ["negative"]
    both = {"inputs": inputs, "outputs": [{"name": "negative"}, {"name": "sum"}]}
    _, answer, _ = call(server, "POST", "/v2/models/pair/versions/1/infer", both)
    assert [output["name"] for output in answer["outputs"]] == ["negative", "sum"]


@pytest.mark.parametrize(("model", "datatype"), [("half", "FP16"), ("bfloat", "BF16"), ("bool", "BOOL")])
def test_other_types(client: Any, server: Run, model: str, datatype: str) -> None:
    values = [[True, False, True]] if datatype == "BOOL" else [[1.5, -2.0, 0.0]]
    status, answer, _ = call(server, "POST", f"/v2/models/{model}/infer", simple(values, datatype))
    assert (status, answer["outputs"][0]["data"]) == (200, values[0])
    x = np.array(values, DATATYPES[datatype].numpy)
    got = client.infer(model, [tensor("x", x, datatype)]).as_numpy("y")
    assert got.astype(np.float32).tolist() == x.astype(np.float32).tolist()


def test_bytes_alone(server: Run) -> None:
    x = np.arange(4, dtype=np.float32)
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    connection.request("POST", "/v2/models/linear/infer", x.tobytes(), {"Inference-Header-Content-Length": "0"})
    answer = connection.getresponse()
    content = answer.read()
    size = int(answer.getheader("Inference-Header-Content-Length") or 0)
    np.testing.assert_array_equal(np.frombuffer(content[size:], np.float32), 2 * x + 1)
    connection.close()


def test_health_and_metadata(client: Any, server: Run) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert not client.is_model_ready("asleep")
    assert client.get_server_metadata()["name"] == "opau-onnx"
    found = client.get_model_metadata("linear")
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["versions"] == ["1"]
    told = found["parameters"]
    assert told["provider"] == "CPUExecutionProvider"
    assert told["implementation"] == "none"
    assert told["max_batch_size"] == 32
    assert client.get_model_config("linear")["max_batch_size"] == 32
    ready = call(server, "GET", "/v2/models/linear/ready")[1]
    assert ready["parameters"] == {"provider": "CPUExecutionProvider", "implementation": "none"}


def test_models_that_must_not_be_batched_say_why(client: Any) -> None:
    for name, why in [("mixing", "depends on the other rows"), ("fixed", "first axis of x .* is fixed")]:
        told = client.get_model_metadata(name)["parameters"]
        assert told["max_batch_size"] == 0
        assert re.search(why, told["unbatched_because"])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(client.infer("mixing", [tensor("x", x)]).as_numpy("y"), x - x.mean(0))


def test_statistics(client: Any) -> None:
    before = client.get_inference_statistics("pair")["model_stats"][0]
    x = np.ones((2, 2), np.float32)
    for _ in range(3):
        client.infer("pair", [tensor("a", x), tensor("b", x)])
    after = client.get_inference_statistics("pair")["model_stats"][0]
    assert after["name"] == "pair"
    success = after["inference_stats"]["success"]
    assert success["count"] - before["inference_stats"]["success"].get("count", 0) == 3
    assert success["ns"] > after["inference_stats"]["compute_infer"]["ns"] > 0
    assert after["inference_count"] - before.get("inference_count", 0) == 6
    assert after["execution_count"] - before.get("execution_count", 0) == 3
    assert {m["name"] for m in client.get_inference_statistics()["model_stats"]} >= {"linear", "pair"}


def test_index_load_and_unload(client: Any) -> None:
    def state(name: str) -> str:
        return {m["name"]: m["state"] for m in client.get_model_repository_index()}[name]

    assert state("asleep") == "UNAVAILABLE"
    client.load_model("asleep")
    assert state("asleep") == "READY"
    assert client.is_model_ready("asleep")
    client.unload_model("asleep")
    assert state("asleep") == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="unloaded"):
        client.infer("asleep", [tensor("x", np.ones((1, 4), np.float32))])


def test_no_path_or_content_from_a_client_is_opened(client: Any, folder: Path) -> None:
    with pytest.raises(InferenceServerException, match="no parameters"):
        client.load_model("asleep", config=json.dumps({"backend": "onnxruntime"}))
    with pytest.raises(InferenceServerException, match="no parameters"):
        client.load_model("asleep", config="{}", files={"file:1/model.onnx": (folder / "linear.onnx").read_bytes()})
    for name in ("../linear", "%2e%2e%2flinear", "linear.onnx", "/etc/passwd"):
        with pytest.raises(InferenceServerException):
            client.load_model(name)


LINEAR = "/v2/models/linear/infer"
FAILURES: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/v2/models/nobody", None, 404, "there is no model 'nobody'; this server has linear"),
    ("GET", "/v2/models/linear/versions/7", None, 404, "no version '7'; it has version '1'"),
    ("POST", "/v2/models/nobody/infer", simple([[1, 2, 3, 4]]), 404, "no model"),
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
    ("POST", "/v2/repository/models/nobody/load", None, 404, "no model"),
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
    """Its neighbours in the batch get their answers."""
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
        assert (status, "in time" in answer["error"]) == (504, True)
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


def test_metrics(server: Run) -> None:
    status, text, headers = call(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"linear" in text


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
