"""What the gRPC server refuses, with which status and which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.serve.rpc.methods import SERVICE as DESCRIPTION
from tests.serve.conftest import Run, Running
from tests.serve.rpc_server import ROW, array, fails, message, stub


@pytest.fixture(scope="module")
def server(running: Running, tables: dict[str, Any]) -> Run:
    return running(tables, http_port=-1, max_request_bytes=1_000_000)


X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def parameter(name: str, **value: Any) -> dict[str, Any]:
    return {"parameters": {name: pb.InferParameter(**value)}}


def with_input(**more: Any) -> Any:
    """A request to pair whose second input has this in it."""
    request = message("pair", np.ones((1, 2), np.float32), name="a")
    request.inputs.add(**{"name": "b", "datatype": "FP32", "shape": [1, 1], **more})
    request.raw_input_contents.append(np.ones(1, np.float32).tobytes())
    return request


def typed(datatype: str, shape: list[int], model: str = "linear", **contents: list) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents))
    return request


def asking(*names: str, **more: Any) -> Any:
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name, **more) for name in names]
    return message("linear", ROW, outputs=outputs)


FAILURES: list[tuple[Any, str, str]] = [
    (message("nobody", ROW), "NOT_FOUND", "unknown model 'nobody'; this server has BOOL"),
    (message("linear", ROW, model_version="7"), "NOT_FOUND", "no version '7'; it has version '1'"),
    (message("asleep", ROW), "UNAVAILABLE", "model 'asleep' is unavailable: not loaded"),
    (message("linear", ROW[:, :3]), "INVALID_ARGUMENT", "input 'x' has shape [1, 3]; expected [-1, 4]"),
    (message("linear", ROW[0]), "INVALID_ARGUMENT", "has shape [4]; expected [-1, 4]"),
    (message("linear", ROW[:0]), "INVALID_ARGUMENT", "no rows"),
    (message("linear", ROW.astype(np.float64), "FP64"), "INVALID_ARGUMENT", "input 'x' is FP64; expected FP32"),
    (message("linear", ROW, "BYTES"), "INVALID_ARGUMENT", "datatype 'BYTES'; expected one of BOOL, UINT8"),
    (message("linear", ROW, "FP64"), "INVALID_ARGUMENT", "has 16 bytes; FP64 of shape [1, 4] has 32"),
    (message("linear", ROW, name="X"), "INVALID_ARGUMENT", "input 'x' is missing; expected x: FP32 [-1, 4]"),
    (with_input(name="a"), "INVALID_ARGUMENT", "duplicate input 'a'"),
    (with_input(name="c"), "INVALID_ARGUMENT", "input 'b' is missing"),
    (with_input(contents=pb.InferTensorContents()), "INVALID_ARGUMENT", "contents beside raw_input_contents"),
    (with_input(**parameter("shared_memory_region", string_param="r")), "INVALID_ARGUMENT", "'shared_memory_region'"),
    (message("linear", ROW, **parameter("sequence_id", int64_param=3)), "INVALID_ARGUMENT", "'sequence_id' is not supported"),
    (message("linear", ROW, **parameter("sequence_id", string_param="s")), "INVALID_ARGUMENT", "'sequence_id'"),
    (message("linear", ROW, **parameter("timeout", string_param="s")), "INVALID_ARGUMENT", "'timeout' is 's'; expected micro"),
    (message("linear", ROW, **parameter("timeout", int64_param=-1)), "INVALID_ARGUMENT", "'timeout' is -1; expected"),
    (message("linear", ROW, **parameter("timeout")), "INVALID_ARGUMENT", "'timeout' is None; expected"),
    (asking("z"), "INVALID_ARGUMENT", "the model has no output 'z'; it has y: FP32 [-1, 4]"),
    (asking("y", "y"), "INVALID_ARGUMENT", "duplicate output 'y'"),
    (
        message("linear", ROW, **parameter("classification", int64_param=2)),
        "INVALID_ARGUMENT",
        "'classification' is not supported",
    ),
    (asking("y", **parameter("classification", int64_param=-2)), "INVALID_ARGUMENT", "of output 'y' is -2; expected"),
    (pb.ModelInferRequest(model_name="linear"), "INVALID_ARGUMENT", "input 'x' is missing"),
    (pb.ModelInferRequest(model_name="linear", raw_input_contents=[b""]), "INVALID_ARGUMENT", "1 tensors for 0 inputs"),
    (typed("FP32", [1, 4], fp32_contents=[1, 2, 3]), "INVALID_ARGUMENT", "3 values in fp32_contents; its shape [1, 4] has 4"),
    (typed("FP32", [1, 4]), "INVALID_ARGUMENT", "0 values in fp32_contents"),
    (typed("FP32", [1, 1], fp64_contents=[1]), "INVALID_ARGUMENT", "is FP32, and has fp64_contents; expected fp32_contents"),
    (typed("FP16", [1, 1], fp32_contents=[1]), "INVALID_ARGUMENT", "FP16, which has no typed contents"),
    (typed("INT8", [1, 3], "INT8", int_contents=[1, 2, 128]), "INVALID_ARGUMENT", "holds a number that INT8 does not"),
    (typed("UINT16", [1, 3], "UINT16", uint_contents=[1, 2, 65536]), "INVALID_ARGUMENT", "holds a number that UINT16 does not"),
    (typed("FP32", [-1, 4]), "INVALID_ARGUMENT", "sizes cannot be negative"),
    (typed("FP32", [1] * 65), "INVALID_ARGUMENT", "has 65 axes; expected 64 at most"),
    (typed("FP32", [0, 2**62, 2**62]), "INVALID_ARGUMENT", "too large even without elements"),
    (typed("FP32", [2**62, 2**62]), "INVALID_ARGUMENT", "0 values"),
    (message("gather", np.array([7]), "INT64", "i"), "INTERNAL", "the model could not be run on this input"),
    (b"\xff\xff\xff", "INVALID_ARGUMENT", "the request is not a valid inference.ModelInferRequest"),
    (b"", "NOT_FOUND", "unknown model ''"),
    (message("ü" * 5000, ROW), "NOT_FOUND", "ü..."),
    (message("n" * 9000, ROW), "NOT_FOUND", "nn..."),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_failures(call: Any, number: int) -> None:
    request, code, text = FAILURES[number]
    with fails(code, text):
        call("ModelInfer", request)


def test_different_rows_in_the_inputs(call: Any) -> None:
    request = with_input(shape=[2, 1])
    request.raw_input_contents[1] = np.ones(2, np.float32).tobytes()
    with fails("INVALID_ARGUMENT", "different numbers of rows: {'a': 1, 'b': 2}"):
        call("ModelInfer", request)


def test_too_large(call: Any, server: Run) -> None:
    fitting = np.zeros((62_000, 4), np.float32)
    assert array(call("ModelInfer", message("linear", fitting))).shape == fitting.shape
    with fails("RESOURCE_EXHAUSTED", "larger than max"):
        call("ModelInfer", message("linear", np.zeros((63_000, 4), np.float32)))
    with fails("RESOURCE_EXHAUSTED", "Decompressed message larger than max"):
        call("ModelInfer", b"\0" * 5_000_000, compression=grpc.Compression.Gzip)
    assert server.service.pending_bytes == 0


def test_too_many_bytes_at_once(running: Running, folder: Path) -> None:
    server = running({"linear": folder / "linear.onnx"}, http_port=-1, max_pending_bytes=100)
    with stub(server) as call:
        call("ModelInfer", message("linear", ROW))
        with fails("RESOURCE_EXHAUSTED", "pending request bytes exceed max_pending_bytes"):
            call("ModelInfer", message("linear", X))
    assert server.service.refused == {"queue_full": 1}
    server.stop()


def test_what_is_refused_is_counted(call: Any, server: Run) -> None:
    statistics = server.service.repository.get("linear").statistics
    before = statistics.errors["invalid"]
    for request in (message("linear", ROW, "BYTES"), message("linear", ROW[0])):
        with fails("INVALID_ARGUMENT"):
            call("ModelInfer", request)
    assert statistics.errors["invalid"] == before + 2


OTHERS = [m.name for m in DESCRIPTION.methods if re.match("(System|Cuda)SharedMemoryRegister|Trace|Log", m.name)]


@pytest.mark.parametrize("method", OTHERS)
def test_calls_that_are_not_served_say_so(call: Any, method: str) -> None:
    with fails("UNIMPLEMENTED", f"{method} is not served: "):
        call(method, b"")


def test_a_call_that_the_protocol_does_not_have(call: Any) -> None:
    assert len(OTHERS) == 4
    with fails("UNIMPLEMENTED", "Method not found"):
        call("ModelGuess", b"")


def test_a_fault_of_the_server_is_told_without_its_message(
    call: Any, server: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.service.repository.get("linear"), "check", broken)
    with fails("INTERNAL", "the server failed: ZeroDivisionError"):
        call("ModelInfer", message("linear", ROW))
    assert "secret" in caplog.text
    monkeypatch.undo()
    call("ModelInfer", message("linear", ROW))


def test_typed_contents_have_the_limit_of_json(running: Running, folder: Path) -> None:
    limited = running({"linear": folder / "linear.onnx"}, http_port=-1, max_json_bytes=1000)
    request = pb.ModelInferRequest(model_name="linear")
    x = request.inputs.add(name="x", datatype="FP32", shape=[100, 4])
    x.contents.fp32_contents.extend([1.0] * 400)
    with stub(limited) as ask, fails("RESOURCE_EXHAUSTED", "max_json_bytes"):
        ask("ModelInfer", request)
    assert limited.service.pending_bytes == 0


def test_a_model_that_is_not_there_is_not_ready(server: Run) -> None:
    with stub(server) as ask:
        assert not ask("ModelReady", pb.ModelReadyRequest(name="nobody"), pb.ModelReadyResponse).ready
        assert not ask("ModelReady", pb.ModelReadyRequest(name="linear", version="77"), pb.ModelReadyResponse).ready
