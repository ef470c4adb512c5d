"""Extensions of the protocol through tritonclient: classes instead of an output, and those that this server does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from opau_onnx.protocol.classification import top_classes
from opau_onnx.protocol.tensors import write_binary
from tests.serve import nets
from tests.serve.conftest import Run, Running
from tests.serve.http_client import call, simple

KINDS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="module")
def server(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("models")
    return running(
        {
            "linear": nets.linear(folder / "linear.onnx"),
            "fixed": nets.fixed(folder / "fixed.onnx"),
            "half": nets.identity(folder / "half.onnx", TensorProto.FLOAT16),
        }
    )


@pytest.fixture(params=KINDS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client(server: Run, protocol: str) -> Any:
    return KINDS[protocol].InferenceServerClient(getattr(server, protocol))


def classes(server: Run, protocol: str, model: str, x: np.ndarray, count: int, **more: Any) -> list:
    """Classes of the output y, as text."""
    module = KINDS[protocol]
    tensor = module.InferInput("x", list(x.shape), {"f4": "FP32", "f2": "FP16"}[x.dtype.str[1:]])
    tensor.set_data_from_numpy(x)
    with client(server, protocol) as made:
        found = made.infer(model, [tensor], outputs=[module.InferRequestedOutput("y", class_count=count, **more)])
    output = found.get_output("y")
    assert (output["datatype"] if protocol == "http" else output.datatype) == "BYTES"
    values = found.as_numpy("y")
    return np.vectorize(lambda value: value.decode() if isinstance(value, bytes) else value)(values).tolist()


def test_classes_of_each_row(server: Run, protocol: str) -> None:
    """y = 2 x + 1."""
    x = np.array([[0.25, 3, -1, 2], [5, 1, 5, 0]], np.float32)
    assert classes(server, protocol, "linear", x, 2) == [["7.000000:1", "5.000000:3"], ["11.000000:0", "11.000000:2"]]
    assert len(classes(server, protocol, "linear", x, 99)[0]) == 4
    assert classes(server, protocol, "half", x[:, :3].astype(np.float16), 1) == [["3.000000:1"], ["5.000000:0"]]


def test_classes_of_a_model_without_a_batch_axis(server: Run, protocol: str) -> None:
    """y = -x, of shape [1, 3]: all axes are one."""
    assert classes(server, protocol, "fixed", np.array([[1, -2, 3]], np.float32), 2) == ["2.000000:1", "-1.000000:0"]


def test_classes_as_json(server: Run) -> None:
    assert classes(server, "http", "linear", np.ones((1, 4), np.float32), 1, binary_data=False) == [["3.000000:0"]]
    body = simple([[1, 2, 3, 4]], outputs=[{"name": "y", "parameters": {"classification": 2}}])
    (output,) = call(server, "POST", "/v2/models/linear/infer", body)[1]["outputs"]
    assert output == {"name": "y", "shape": [1, 2], "datatype": "BYTES", "data": ["9.000000:3", "7.000000:2"]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, np.nan, np.inf, -np.inf], ["inf:2", "1.000000:0", "-inf:3", "nan:1"]),
        (np.array([0, 2**64 - 1, 5], np.uint64), ["18446744073709551615:1", "5:2", "0:0"]),
        (np.array([2**64 - 2, 2**64 - 1], np.uint64), ["18446744073709551615:1", "18446744073709551614:0"]),
        (np.array([-128, 127, -1], np.int8), ["127:1", "-1:2", "-128:0"]),
        (np.array([False, True, True]), ["1:1", "1:2", "0:0"]),
    ],
)
def test_order(values: Any, expected: list[str]) -> None:
    found = top_classes(np.asarray(values), 9, batched=False)
    assert [one.decode() for one in found] == expected


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_of_equal_values_the_first_comes_first(dtype: Any) -> None:
    values = np.tile([1, 2], 500).astype(dtype)
    found = [int(one.rpartition(b":")[2]) for one in top_classes(values, 1000, batched=False)]
    assert found == [*range(1, 1000, 2), *range(0, 1000, 2)]


def test_bytes_have_their_length_before_them() -> None:
    assert write_binary(np.array([b"ab", b""], object)) == b"\x02\0\0\0ab\0\0\0\0"


def test_nothing_is_in_shared_memory(server: Run, protocol: str) -> None:
    with client(server, protocol) as made:
        for kind in ("system", "cuda"):
            status = getattr(made, f"get_{kind}_shared_memory_status")
            found = status() if protocol == "http" else status().regions
            assert not found
            with pytest.raises(InferenceServerException, match="unknown shared memory region 'r'"):
                status("r")
            getattr(made, f"unregister_{kind}_shared_memory")()
            getattr(made, f"unregister_{kind}_shared_memory")("r")
        with pytest.raises(InferenceServerException, match="not read from shared memory"):
            made.register_system_shared_memory("r", "/r", 64)
        with pytest.raises(InferenceServerException, match="not read from shared memory"):
            made.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64)


def test_settings_of_traces_and_logs(server: Run, protocol: str) -> None:
    with client(server, protocol) as made:
        for ask in (
            made.get_trace_settings,
            lambda: made.get_trace_settings("linear"),
            lambda: made.update_trace_settings(settings={"trace_rate": "1"}),
        ):
            with pytest.raises(InferenceServerException, match="traces are set when the server is started"):
                ask()
        for ask in (made.get_log_settings, lambda: made.update_log_settings({"log_verbose_level": 1})):
            with pytest.raises(InferenceServerException, match="logs are set when the server is started"):
                ask()


def test_what_is_there_is_told(server: Run) -> None:
    found = call(server, "GET", "/v2")[1]["extensions"]
    assert "classification" in found
    assert not [name for name in found if "memory" in name or "trace" in name or "logging" in name]


def test_they_need_the_token(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, token_file=str(tmp_path / "token"))
    for path in ("systemsharedmemory/status", "trace/setting", "logging"):
        assert call(server, "GET", f"/v2/{path}")[0] == 401
    assert call(server, "GET", "/v2/logging", Authorization="Bearer secret")[0] == 501
