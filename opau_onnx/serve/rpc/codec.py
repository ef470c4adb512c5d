"""From a ``ModelInferRequest`` to arrays, and from arrays to a ``ModelInferResponse``."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import InvalidRequestError
from opau_onnx.protocol.parameters import check_supported, timeout_us
from opau_onnx.protocol.tensors import Array, elements, known, read_binary, write_binary
from opau_onnx.serve.service import Answer, Request

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""The field of ``InferTensorContents`` for each data type; FP16 and BF16 have none."""


def parse(kind: Any, raw: bytes) -> Any:
    """A message of a kind.

    Raises:
        InvalidRequestError: the bytes are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidRequestError(f"the request is no {kind.DESCRIPTOR.full_name}") from None


def decode(message: Any, remaining_us: int | None, started: int) -> Request:
    """The request in a ``ModelInferRequest``.

    Args:
        message: it; arrays keep their own copies of its bytes.
        remaining_us: how long the call may still take, in microseconds; None: for ever.
        started: when it came, in nanoseconds of ``time.perf_counter_ns``.

    Raises:
        InvalidRequestError: it is not one of the protocol; the message says what was expected.
    """
    limit = remaining_us
    if message.parameters:
        parameters = plain(message.parameters)
        check_supported(parameters)
        timeout = timeout_us(parameters)
        limit = min((one for one in (timeout, remaining_us) if one is not None), default=None)
    return Request(message.model_name, message.model_version, _inputs(message), _outputs(message), limit, started)


def plain(parameters: Any) -> dict[str, Any]:
    """The values of a map of parameters; one without a value is None."""
    found = {}
    for name in parameters:
        parameter = parameters[name]
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found


def encode(answer: Answer, identity: str) -> Any:
    """The ``ModelInferResponse`` of an answer, its tensors as bytes."""
    arrays = [answer.arrays[spec.name] for spec in answer.outputs]
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=answer.model.name,
        model_version=answer.model.version,
        id=identity,
        outputs=[
            tensor(name=spec.name, datatype=spec.datatype, shape=array.shape)
            for spec, array in zip(answer.outputs, arrays, strict=True)
        ],
        raw_output_contents=[write_binary(array) for array in arrays],
    )


def _inputs(message: Any) -> dict[str, Array]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequestError(
            f"raw_input_contents has {len(raw)} tensors for {len(message.inputs)} inputs; expected one for each"
        )
    found: dict[str, Array] = {}
    for number, tensor in enumerate(message.inputs):
        name = tensor.name
        if name in found:
            raise InvalidRequestError(f"input {name!r} is there twice")
        if tensor.parameters:
            check_supported(plain(tensor.parameters))
        if not raw:
            found[name] = _typed(tensor)
        elif tensor.HasField("contents"):
            raise InvalidRequestError(f"input {name!r} has contents beside raw_input_contents; send one of them")
        else:
            found[name] = read_binary(name, tensor.datatype, list(tensor.shape), raw[number])
    return found


def _outputs(message: Any) -> list[str] | None:
    names = []
    for output in message.outputs:
        if output.parameters:
            check_supported(plain(output.parameters))
        names.append(output.name)
    if len(set(names)) != len(names):
        raise InvalidRequestError("an output is asked for twice")
    return names or None


def _typed(tensor: Any) -> Array:
    """The array of an input's ``contents``."""
    name, kind = tensor.name, known(tensor.name, tensor.datatype)
    shape = list(tensor.shape)
    count = elements(name, shape)
    field = CONTENTS.get(kind.name)
    if field is None:
        raise InvalidRequestError(f"input {name!r} is {kind.name}, which has no typed contents; send raw_input_contents")
    others = [found.name for found, _ in tensor.contents.ListFields() if found.name != field]
    if others:
        raise InvalidRequestError(f"input {name!r} is {kind.name}, and has {others[0]}; expected {field}")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InvalidRequestError(f"input {name!r} has {len(values)} values in {field}; its shape {shape} has {count}")
    return _converted(name, values, kind.name, kind.numpy).reshape(shape)


def _converted(name: str, values: Any, datatype: str, dtype: np.dtype[Any]) -> Array:
    """Numbers as a data type, if it holds them: the protocol sends 8 and 16 bits in fields of 32."""
    if dtype.kind not in "iu":
        return np.array(values, dtype)
    wide = np.array(values, np.int64 if dtype.kind == "i" else np.uint64)
    found = wide.astype(dtype)
    if not np.array_equal(found, wide):
        raise InvalidRequestError(f"input {name!r} holds a number that {datatype} does not")
    return found
