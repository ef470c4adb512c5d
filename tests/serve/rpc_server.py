"""What the tests of the gRPC side share: the models that they serve, and messages made by hand."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.tensors import DATATYPES
from tests.serve import nets

if TYPE_CHECKING:
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
    """An output of a response."""
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


SLOW = message("slow", np.zeros((1, 400, 4), np.float32))

ROW = np.ones((1, 4), np.float32)


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def stuck(server: Run, model: str = "slow") -> Iterator[Any]:
    """Its runs begin, and end when this does."""
    served = server.service.repository.get(model)
    (runner,) = served.prepared.runners
    go, run = threading.Event(), runner.run

    def wait(inputs: Any) -> Any:
        go.wait(60)
        return run(inputs)

    runner.run = wait  # type: ignore[method-assign]
    try:
        yield served
    finally:
        runner.run = run  # type: ignore[method-assign]
        go.set()
        until(lambda: served.batcher._free and not served.batcher.waiting)


def begin(call: Any, request: Any, timeout: float | None = 60) -> Any:
    method = call.channel.unary_unary(SERVICE + "ModelInfer", None, pb.ModelInferResponse.FromString)
    return method.future(request.SerializeToString(), timeout=timeout)


@contextmanager
def stream(server: Run) -> Iterator[tuple[triton.InferenceServerClient, queue.Queue]]:
    answers: queue.Queue = queue.Queue()
    with client(server) as made:
        made.start_stream(lambda result, error: answers.put(error or result))
        yield made, answers
