"""The Open Inference Protocol over HTTP, end to end: tritonclient against a server."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from opau_onnx.protocol.tensors import DATATYPES
from tests.serve.conftest import Run, Running
from tests.serve.http_client import call, models, simple, tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(running: Running, folder: Path) -> Run:
    return running(models(folder), max_request_bytes=1_000_000)


@pytest.fixture
def client(server: Run) -> Any:
    with triton.InferenceServerClient(server.http, network_timeout=60, connection_timeout=60) as made:
        yield made


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
    for name, reason in [("mixing", "over the rows of a batch"), ("fixed", "first axis of x .* is fixed")]:
        told = client.get_model_metadata(name)["parameters"]
        assert told["max_batch_size"] == 0
        assert re.search(reason, told["unbatched_because"])
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


def test_metrics(server: Run) -> None:
    status, text, headers = call(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"linear" in text
