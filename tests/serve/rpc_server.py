"""What the tests of the gRPC side share: the models that they serve, and messages made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.serve.tensors import DATATYPES
from tests.serve import nets
from tests.serve.conftest import Run

SERVICE = "/inference.GRPCInferenceService/"


def models(folder: Path) -> dict[str, Any]:
    """Settings by name: every data type, every way to fail, and a slow one with a short queue."""
    types = {t: {"path": nets.identity(folder / f"{t}.onnx", DATATYPES[t].element)} for t in DATATYPES}
    return {
        **types,
        "linear": nets.linear(folder / "linear.onnx"),
        "gather": nets.gather(folder / "gather.onnx"),
        "fixed": nets.fixed(folder / "fixed.onnx"),
        "pair": {"path": nets.pair(folder / "pair.onnx"), "input_shapes": {"b": [1, 2]}},
        "scalar": nets.identity(folder / "scalar.onnx", TensorProto.FLOAT, ["rows"]),
        "slow": {"path": nets.slow(folder / "slow.onnx"), "max_batch_size": 1, "instances": 1, "max_queue": 3},
        "asleep": {"path": nets.linear(folder / "asleep.onnx"), "load": False},
    }


def client(server: Run, **options: Any) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.grpc, **options)


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def message(model: str, array: np.ndarray, datatype: str = "FP32", name: str = "x", **more: Any) -> Any:
    """A request with one input, its tensor as bytes."""
    made = pb.ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()], **more)
    made.inputs.add(name=name, datatype=datatype, shape=array.shape)
    return made


def array(answer: Any, number: int = 0) -> np.ndarray:
    """An output of an answer."""
    output = answer.outputs[number]
    return np.frombuffer(answer.raw_output_contents[number], DATATYPES[output.datatype].numpy).reshape(output.shape)


@contextmanager
def stub(server: Run, **options: Any) -> Iterator[Any]:
    """``call(method, request, answer type, **)``: bytes or a message goes out, a message comes back."""
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)], **options) as channel:

        def call(method: str, request: Any, kind: Any = pb.ModelInferResponse, **more: Any) -> Any:
            raw = request if isinstance(request, bytes) else request.SerializeToString()
            return channel.unary_unary(SERVICE + method, None, kind.FromString)(raw, timeout=more.pop("timeout", 60), **more)

        call.channel = channel  # type: ignore[attr-defined]
        yield call


@contextmanager
def fails(code: str, text: str = "") -> Iterator[None]:
    """The calls inside end with this status, and the message has this text."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() is grpc.StatusCode[code], error
    assert text in error.details(), error.details()
