"""From a ``ModelInferRequest`` to arrays, and from arrays to a ``ModelInferResponse``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.protocol.errors import InvalidRequestError, TooLargeError
from opau_onnx.protocol.parameters import check_distinct, check_supported, class_count, timeout_us
from opau_onnx.protocol.tensors import Array, elements, known, read_binary, write_binary
from opau_onnx.serve.service import Request, Response

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

LARGE = 65_536
"""Bytes of a request from which its raw tensors are found without protobuf."""
VARINT, LENGTH_DELIMITED, FIXED_SIZES = 0, 2, {1: 8, 5: 4}
"""Kinds of a field in protobuf's encoding, and bytes of those whose size is fixed."""
RAW_TENSOR = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED
"""Key of a raw tensor."""
FIELDS = 65_536
"""Of a request, at most."""


def parse(kind: Any, raw: bytes) -> Any:
    """A message of a kind.

    Raises:
        InvalidRequestError: the bytes are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidRequestError(f"the request is not a valid {kind.DESCRIPTOR.full_name}") from None


def parse_request(raw: bytes, limit: int) -> tuple[Any, Sequence[bytes | memoryview]]:
    """A ``ModelInferRequest`` and its raw tensors. Large ones are left where they are: protobuf would copy them twice.

    Args:
        raw: its bytes.
        limit: bytes of all that is not raw tensors. Protobuf makes objects of it that take up to 50 times as much memory.

    Raises:
        InvalidRequestError: the bytes are no ``ModelInferRequest``.
        TooLargeError: there is more beside the raw tensors.
    """
    if len(raw) < LARGE:
        message = parse(pb.ModelInferRequest, raw)
        return message, message.raw_input_contents
    rest, tensors = _split(raw)
    size = sum(map(len, rest))
    if size > limit:
        raise TooLargeError(
            f"the request has {size} bytes beside raw_input_contents; this server takes {limit} (max_json_bytes)"
        )
    return parse(pb.ModelInferRequest, b"".join(rest)), tensors


def _split(raw: bytes) -> tuple[list[memoryview], list[memoryview]]:
    """The fields of a request without its raw tensors, and those."""
    view, at, rest, tensors = memoryview(raw), 0, list[memoryview](), list[memoryview]()
    try:
        while at < len(raw):
            begin = at
            key, at = _varint(raw, at)
            kind = key & 7
            if kind == LENGTH_DELIMITED:
                size, at = _varint(raw, at)
                end = at + size
            elif kind == VARINT:
                end = _varint(raw, at)[1]
            else:
                end = at + FIXED_SIZES[kind]
            (tensors if key == RAW_TENSOR else rest).append(view[at if key == RAW_TENSOR else begin : end])
            at = end
            if at > len(raw) or len(rest) + len(tensors) > FIELDS:
                raise IndexError
    except (IndexError, KeyError):
        raise InvalidRequestError(f"the request is not a valid {pb.ModelInferRequest.DESCRIPTOR.full_name}") from None
    return rest, tensors


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number that begins there in protobuf's variable length, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError


def decode(message: Any, tensors: Sequence[bytes | memoryview], remaining_us: int | None, started: int) -> Request:
    """The request in a ``ModelInferRequest``.

    Args:
        message: it.
        tensors: its raw tensors; arrays may look into them.
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
    outputs, classes = _outputs(message)
    return Request(message.model_name, message.model_version, _inputs(message, tensors), outputs, limit, started, classes)


def plain(parameters: Any) -> dict[str, Any]:
    """The values of a map of parameters; one without a value is None."""
    found = {}
    for name in parameters:
        parameter = parameters[name]
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found


def encode(response: Response, identity: str) -> Any:
    """The ``ModelInferResponse`` of a response, its tensors as bytes."""
    arrays = [response.arrays[spec.name] for spec in response.outputs]
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=response.model.name,
        model_version=response.model.version,
        id=identity,
        outputs=[
            tensor(name=spec.name, datatype=spec.datatype, shape=array.shape)
            for spec, array in zip(response.outputs, arrays, strict=True)
        ],
        raw_output_contents=[write_binary(array) for array in arrays],
    )


def _inputs(message: Any, raw: Sequence[bytes | memoryview]) -> dict[str, Array]:
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequestError(
            f"raw_input_contents has {len(raw)} tensors for {len(message.inputs)} inputs; expected one for each"
        )
    found: dict[str, Array] = {}
    for number, tensor in enumerate(message.inputs):
        name = tensor.name
        if name in found:
            raise InvalidRequestError(f"duplicate input {name!r}")
        if tensor.parameters:
            check_supported(plain(tensor.parameters))
        if not raw:
            found[name] = _typed(tensor)
        elif tensor.HasField("contents"):
            raise InvalidRequestError(f"input {name!r} has contents beside raw_input_contents; send one of them")
        else:
            found[name] = read_binary(name, tensor.datatype, list(tensor.shape), raw[number])
    return found


def _outputs(message: Any) -> tuple[list[str] | None, dict[str, int]]:
    """(Names, how many classes are wanted instead of an output)."""
    names, classes = [], {}
    for output in message.outputs:
        if output.parameters and (count := class_count(output.name, plain(output.parameters))):
            classes[output.name] = count
        names.append(output.name)
    check_distinct(names)
    return names or None, classes


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
