"""Anything that may come over the wire: the server says what is wrong with it, and goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.tensors import DATATYPES
from opau_onnx.serve.rpc.methods import SERVICE as DESCRIPTION
from tests.serve.conftest import Run, Running
from tests.serve.rpc_server import SERVICE, array, message, models

X = np.arange(8, dtype=np.float32).reshape(2, 4)
NAMES = ("linear", "pair", "scalar", "fixed", "gather", "asleep")
CONTROL = [m.name for m in DESCRIPTION.methods if not m.name.startswith("Model") or m.name in ("ModelReady", "ModelConfig")]
NAMES_OF_FINE = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED")
FINE = {grpc.StatusCode[name] for name in NAMES_OF_FINE}
fuzzed = settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def server(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Run:
    tables = models(tmp_path_factory.mktemp("models"))
    return running({name: tables[name] for name in NAMES}, http_port=-1)


@pytest.fixture(autouse=True)
def stays_up(call: Any, server: Run, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    np.testing.assert_array_equal(array(call("ModelInfer", message("linear", X))), 2 * X + 1)
    assert server.service.pending_bytes == 0


def outcome(call: Any, method: str, raw: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        call.channel.unary_unary(SERVICE + method)(raw, timeout=60)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def check(call: Any, method: str, raw: bytes) -> None:
    code, details = outcome(call, method, raw)
    if code is grpc.StatusCode.INTERNAL:
        assert "the model could not be run on this input" in details
    else:
        assert code in FINE, details


@given(raw=st.binary(max_size=300))
@fuzzed
def test_any_bytes(call: Any, raw: bytes) -> None:
    check(call, "ModelInfer", raw)


@given(raw=st.binary(max_size=60), method=st.sampled_from(CONTROL))
@fuzzed
def test_any_bytes_to_the_other_calls(call: Any, raw: bytes, method: str) -> None:
    check(call, method, raw)


@given(data=st.data())
@fuzzed
def test_a_request_with_some_bytes_changed(call: Any, data: st.DataObject) -> None:
    raw = bytearray(message("linear", X, id="a").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(call, "ModelInfer", bytes(raw[: data.draw(st.integers(1, len(raw)))]))


SIZES = st.integers(-1, 3) | st.sampled_from([2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63)])
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "classification", "binary_data", "x"]),
    st.one_of(
        st.builds(pb.InferParameter),
        st.builds(pb.InferParameter, int64_param=st.integers(0, 10**9)),
        st.builds(pb.InferParameter, string_param=st.text(max_size=4)),
        st.builds(pb.InferParameter, double_param=st.floats()),
    ),
    max_size=2,
)
CONTENTS = st.one_of(
    st.none(),
    st.builds(pb.InferTensorContents, fp32_contents=st.lists(st.floats(width=32), max_size=6)),
    st.builds(pb.InferTensorContents, int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)),
    st.builds(pb.InferTensorContents, bytes_contents=st.lists(st.binary(max_size=4), max_size=4)),
)
INPUTS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["x", "a", "b", "i", "", "ü\0"]),
    datatype=st.sampled_from([*DATATYPES, "FP32", "FP32", "BYTES", ""]),
    shape=st.lists(SIZES, max_size=4),
    contents=CONTENTS,
    parameters=PARAMETERS,
)
OUTPUTS = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor, name=st.sampled_from(["y", "sum", "z"]), parameters=PARAMETERS
)
REQUESTS = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from([*NAMES, "", "nobody"]),
    model_version=st.sampled_from(["", "", "1", "2"]),
    inputs=st.lists(INPUTS, max_size=3),
    outputs=st.lists(OUTPUTS, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=32), max_size=3),
    parameters=PARAMETERS,
)


@given(request=REQUESTS)
@fuzzed
def test_any_request(call: Any, request: Any) -> None:
    check(call, "ModelInfer", request.SerializeToString())


@given(parts=st.lists(st.binary(max_size=40), min_size=1, max_size=5))
@settings(fuzzed, max_examples=50)
def test_any_bytes_in_a_stream(call: Any, parts: list[bytes]) -> None:
    good = message("linear", X, id="last").SerializeToString()
    open_stream = call.channel.stream_stream(SERVICE + "ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
    answers = list(open_stream(iter([*parts, good]), timeout=60))
    assert len(answers) == len(parts) + 1
    assert answers[-1].infer_response.id == "last"
    assert all(answer.error_message for answer in answers[:-1])


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@given(raw=st.binary(min_size=1, max_size=200), greeted=st.booleans())
@settings(fuzzed, max_examples=50)
def test_what_is_not_grpc_closes_its_connection_only(server: Run, raw: bytes, greeted: bool) -> None:
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=20) as connection:
        connection.sendall((PREFACE + b"\0\0\0\4\0\0\0\0\0" if greeted else b"") + raw)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
