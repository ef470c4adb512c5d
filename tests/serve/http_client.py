"""A client of the Open Inference Protocol over HTTP, and the models that its tests call."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from onnx import TensorProto

from tests.serve import nets
from tests.serve.conftest import Run

LINEAR = "/v2/models/linear/infer"


def models(folder: Path) -> dict[str, Any]:
    """What the tests serve, by name."""
    return {
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
