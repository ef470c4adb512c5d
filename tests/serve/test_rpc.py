"""The Open Inference Protocol over gRPC, end to end: every call and data type, with tritonclient and by hand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from opau_onnx import __version__
from opau_onnx.protocol.tensors import DATATYPES
from opau_onnx.serve import rpc
from opau_onnx.serve.config import ServerSettings
from opau_onnx.serve.rpc.codec import CONTENTS
from tests.serve import nets
from tests.serve.conftest import Run, Running
from tests.serve.rpc_server import ROW, SERVICE, array, client, fails, message, tensor


@pytest.fixture(scope="module")
def server(running: Running, tables: dict[str, Any]) -> Run:
    return running(tables, http_port=-1, max_request_bytes=1_000_000)


@pytest.fixture(scope="module")
def official(server: Run) -> Iterator[triton.InferenceServerClient]:
    with client(server) as made:
        yield made


X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_inference(official: triton.InferenceServerClient) -> None:
    result = official.infer("linear", [tensor("x", X)], request_id="abc")
    np.testing.assert_allclose(result.as_numpy("y"), 2 * X + 1, rtol=1e-6)
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("abc", "linear", "1")


def test_aio(server: Run) -> None:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(server.grpc) as made:
            assert await made.is_model_ready("linear")
            return await made.infer("linear", [tensor("x", X)], model_version="1", client_timeout=60)

    np.testing.assert_allclose(server.do(ask()).as_numpy("y"), 2 * X + 1, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(official: triton.InferenceServerClient, algorithm: str) -> None:
    result = official.infer("linear", [tensor("x", X)], compression_algorithm=algorithm)
    np.testing.assert_allclose(result.as_numpy("y"), 2 * X + 1, rtol=1e-6)


def test_nan_and_infinities_are_data(call: Any) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)
    np.testing.assert_array_equal(array(call("ModelInfer", message("linear", x))), 2 * x + 1)


def example(datatype: str) -> np.ndarray:
    dtype = DATATYPES[datatype].numpy
    if datatype == "BOOL":
        return np.array([[True, False, True]])
    if datatype in ("FP16", "FP32", "FP64", "BF16"):
        return np.array([[1.5, np.nan, -np.inf]]).astype(dtype)
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max, 1]], dtype)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_data_type_as_bytes(call: Any, datatype: str) -> None:
    x = example(datatype)
    answer = call("ModelInfer", message(datatype, x, datatype))
    got = array(answer)
    assert answer.outputs[0].datatype == datatype
    assert not answer.outputs[0].HasField("contents")
    assert (got.dtype, got.shape, got.tobytes()) == (x.dtype, x.shape, x.tobytes())


@pytest.mark.parametrize("datatype", CONTENTS)
def test_every_data_type_in_typed_contents(call: Any, datatype: str) -> None:
    x = example(datatype)
    request = pb.ModelInferRequest(model_name=datatype)
    request.inputs.add(name="x", datatype=datatype, shape=x.shape)
    getattr(request.inputs[0].contents, CONTENTS[datatype]).extend(x.ravel().tolist())
    np.testing.assert_array_equal(array(call("ModelInfer", request)), x)


def test_bfloat16_by_tritonclient(official: triton.InferenceServerClient) -> None:
    x = np.array([[1.5, -2, 3]], ml_dtypes.bfloat16)
    got = official.infer("BF16", [tensor("x", x, "BF16")]).as_numpy("y")
    np.testing.assert_array_equal(got.astype(np.float32), x.astype(np.float32))


def test_bytes_that_are_no_bool_count_as_true(call: Any) -> None:
    request = message("BOOL", np.array([[0, 2, 255]], np.uint8), "BOOL")
    np.testing.assert_array_equal(array(call("ModelInfer", request)), [[False, True, True]])


def test_two_inputs_and_outputs_in_the_order_they_are_asked_for(official: triton.InferenceServerClient) -> None:
    a, b = np.ones((2, 2), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = [tensor("b", b), tensor("a", a)]
    result = official.infer("pair", inputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), 2 * a)
    np.testing.assert_array_equal(result.as_numpy("negative"), -b)
    asked = [triton.InferRequestedOutput(name) for name in ("negative", "sum")]
    assert [o.name for o in official.infer("pair", inputs, outputs=asked).get_response().outputs] == ["negative", "sum"]
    alone = official.infer("pair", inputs, outputs=asked[:1]).get_response()
    assert ([o.name for o in alone.outputs], len(alone.raw_output_contents)) == (["negative"], 1)


def test_more_rows_than_a_batch_has(official: triton.InferenceServerClient) -> None:
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    np.testing.assert_array_equal(official.infer("linear", [tensor("x", x)]).as_numpy("y"), 2 * x + 1)
    rows = np.arange(70, dtype=np.float32)
    np.testing.assert_array_equal(official.infer("scalar", [tensor("x", rows)]).as_numpy("y"), rows)


def test_parameters_that_change_nothing(official: triton.InferenceServerClient) -> None:
    more = {"priority": 3, "timeout": 10_000_000, "parameters": {"mine": 1, "flag": True, "text": "a", "number": 0.5}}
    official.infer("linear", [tensor("x", X)], **more)
    official.infer("linear", [tensor("x", X)], timeout=0)


def test_health(official: triton.InferenceServerClient) -> None:
    assert official.is_server_live()
    assert official.is_model_ready("linear", "1")
    assert not official.is_model_ready("asleep")
    assert not official.is_model_ready("nobody")


def test_metadata(official: triton.InferenceServerClient) -> None:
    about = official.get_server_metadata()
    assert (about.name, about.version) == ("opau-onnx", __version__)
    assert {"model_repository", "statistics", "model_configuration"} <= set(about.extensions)
    found = official.get_model_metadata("pair")
    assert (found.name, list(found.versions), found.platform) == ("pair", ["1"], "onnxruntime_onnx")
    inputs = [(t.name, t.datatype, list(t.shape)) for t in found.inputs]
    assert inputs == [("a", "FP32", [-1, 2]), ("b", "FP32", [-1, -1])]
    assert [t.name for t in found.outputs] == ["sum", "negative"]


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_what_runs_the_model_is_in_the_initial_metadata(call: Any, method: str) -> None:
    request = getattr(pb, f"{method}Request")(name="linear")
    _, made = call.channel.unary_unary(SERVICE + method).with_call(request.SerializeToString())
    found = dict(made.initial_metadata())
    assert (found["opau-provider"], found["opau-implementation"]) == ("CPUExecutionProvider", "none")


def test_configuration(official: triton.InferenceServerClient, folder: Path) -> None:
    found = official.get_model_config("pair").config
    assert (found.name, found.backend, found.platform, found.max_batch_size) == ("pair", "onnxruntime", "onnxruntime_onnx", 32)
    assert [(t.name, list(t.dims)) for t in found.input] == [("a", [2]), ("b", [-1])]
    assert found.dynamic_batching.max_queue_delay_microseconds == 500
    assert found.parameters["provider"].string_value == "CPUExecutionProvider"
    assert found.parameters["implementation"].string_value == "none"
    assert re.fullmatch("[0-9a-f]{64}", found.parameters["sha256"].string_value)
    assert str(folder) not in str(found)
    alone = official.get_model_config("fixed").config
    assert (alone.max_batch_size, [list(t.dims) for t in alone.input]) == (0, [[1, 3]])
    assert "is fixed" in alone.parameters["unbatched_because"].string_value


def test_statistics(call: Any, official: triton.InferenceServerClient) -> None:
    def one() -> Any:
        return official.get_inference_statistics("UINT8", "1").model_stats[0]

    before = one()
    for rows in (1, 1, 3):
        call("ModelInfer", message("UINT8", np.zeros((rows, 3), np.uint8), "UINT8"))
    with fails("INVALID_ARGUMENT"):
        call("ModelInfer", message("UINT8", np.zeros((1, 4), np.uint8), "UINT8"))
    found = one()
    assert (found.name, found.version) == ("UINT8", "1")
    assert found.inference_count - before.inference_count == 5
    assert found.execution_count - before.execution_count == 3
    assert found.inference_stats.success.count - before.inference_stats.success.count == 3
    assert found.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert {1, 3} <= {batch.batch_size for batch in found.batch_stats}
    assert 0 < found.inference_stats.compute_infer.ns < found.inference_stats.success.ns
    assert found.last_inference > 1_700_000_000_000
    assert "linear" in {stats.name for stats in official.get_inference_statistics().model_stats}
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*no version '9'"):
        official.get_inference_statistics("UINT8", "9")


def test_repository(call: Any, official: triton.InferenceServerClient) -> None:
    def states() -> dict[str, tuple[str, str]]:
        return {model.name: (model.state, model.reason) for model in official.get_model_repository_index().models}

    assert states()["asleep"] == ("UNAVAILABLE", "not loaded")
    official.load_model("asleep")
    assert states()["asleep"] == ("READY", "")
    official.infer("asleep", [tensor("x", X)])
    official.unload_model("asleep", unload_dependents=True)
    assert states()["asleep"] == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        official.infer("asleep", [tensor("x", X)])
    ready = call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True), pb.RepositoryIndexResponse).models
    assert {model.name for model in ready} == set(states()) - {"asleep"}


def test_the_server_is_ready_once_what_it_should_load_is(official: triton.InferenceServerClient) -> None:
    assert official.is_server_ready()
    official.unload_model("INT8")
    assert not official.is_server_ready()
    official.load_model("INT8")
    assert official.is_server_ready()


def test_no_path_or_content_from_a_client_is_opened(official: triton.InferenceServerClient, folder: Path) -> None:
    for more in ({"config": '{"backend":"python"}'}, {"config": "{}", "files": {"file:1/model.onnx": b"x"}}):
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*send no parameters"):
            official.load_model("linear", **more)
    for name in ("../linear", "/etc/passwd", "linear.onnx", ""):
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            official.load_model(name)
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            official.unload_model(name)


def test_another_repository(call: Any) -> None:
    for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        request, kind = getattr(pb, f"{method}Request"), getattr(pb, f"{method}Response")
        with fails("INVALID_ARGUMENT", "no repository 'other'"):
            call(method, request(repository_name="other"), kind)


def test_a_file_that_cannot_be_loaded_leaves_the_old_model(running: Running, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(folder / "linear.onnx", path)
    server = running({"m": path}, http_port=-1)
    with client(server) as made:
        nets.linear(path, slope=5)
        made.load_model("m")
        np.testing.assert_allclose(made.infer("m", [tensor("x", X)]).as_numpy("y"), 5 * X + 1, rtol=1e-6)
        path.write_bytes(b"not a model")
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*cannot be loaded"):
            made.load_model("m")
        np.testing.assert_allclose(made.infer("m", [tensor("x", X)]).as_numpy("y"), 5 * X + 1, rtol=1e-6)
    server.stop()


def test_every_request_is_told_to_the_tracer(server: Run) -> None:
    told: list[tuple[Any, ...]] = []

    class Recorder:
        def record(self, *about: Any) -> None:
            told.append(about)

    tracer: Any = Recorder()
    second = server.do(rpc.start(server.service, ServerSettings(grpc_port=0), tracer=tracer))
    with grpc.insecure_channel(f"127.0.0.1:{second.port}") as channel:
        ask = channel.unary_unary(SERVICE + "ModelInfer")
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ask(message("linear", ROW, model_version="1").SerializeToString(), metadata=(("traceparent", parent),), timeout=60)
        for raw, code in ((message("nobody", ROW).SerializeToString(), "NOT_FOUND"), (b"\xff", "INVALID_ARGUMENT")):
            with fails(code):
                ask(raw, timeout=60)
    server.do(second.stop(0.0))
    assert [about[2:4] for about in told] == [("linear", "1"), ("nobody", ""), ("", "")]
    assert {about[0] for about in told} == {"grpc"}
    assert told[0][1]["traceparent"] == parent
    assert told[0][5].model.name == "linear"
    assert [about[5].kind for about in told[1:]] == ["unknown_model", "invalid"]


def test_every_request_is_logged_at_debug(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "opau_onnx.serve"):
        call("ModelInfer", message("linear", X, id="mine"))
    assert any("linear" in str(record.__dict__) and "mine" in str(record.__dict__) for record in caplog.records)
