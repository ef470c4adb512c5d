"""From the body of an HTTP request to arrays, and from arrays to the body of its response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from opau_onnx.protocol.errors import InvalidRequestError
from opau_onnx.protocol.parameters import check_distinct, check_supported, class_count, timeout_us
from opau_onnx.protocol.tensors import DATATYPES, Array, DataType, TensorSpec, elements, known, read_binary, write_binary
from opau_onnx.serve.http.messages import InferenceResponse, InputTensor, OutputTensor, numbers, read, write
from opau_onnx.serve.service import Response

CHUNK = 65536
"""Values between JSON and an array at once: a few milliseconds."""
LISTS = 1024
"""Lists and commas beyond those that a shape has, which may be there: the reader then says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request's content.

    Attributes:
        inputs: by name.
        outputs: names, None for all.
        binary: those that are wanted as bytes.
        binary_default: whether the others are.
        id: the client's.
        timeout_us: the client's; None: it gave none.
        classes: how many classes are wanted instead of an output, by name.
    """

    inputs: dict[str, Array]
    outputs: list[str] | None
    binary: dict[str, bool]
    binary_default: bool
    id: str
    timeout_us: int | None
    classes: dict[str, int] = field(default_factory=dict)


def decode(body: bytes, header_length: int | None) -> Decoded:
    """Decode a request's body.

    Args:
        body: JSON, and binary tensors behind it.
        header_length: bytes of the JSON; None: all.

    Raises:
        InvalidRequestError: it is not a request; the message says what was expected.
    """
    size = len(body) if header_length is None else header_length
    if not 0 <= size <= len(body):
        raise InvalidRequestError(f"Inference-Header-Content-Length is {size}; the body has {len(body)} bytes")
    view = memoryview(body)
    request = read(view[:size])
    inputs = _inputs(request.inputs, view[size:])
    check_supported(request.parameters)
    binary: dict[str, bool] = {}
    classes: dict[str, int] = {}
    for output in request.outputs:
        if count := class_count(output.name, output.parameters):
            classes[output.name] = count
        if "binary_data" in output.parameters:
            binary[output.name] = _flag(output.parameters, "binary_data")
    check_distinct([output.name for output in request.outputs])
    return Decoded(
        inputs=inputs,
        outputs=[output.name for output in request.outputs] or None,
        binary=binary,
        binary_default=_flag(request.parameters, "binary_data_output"),
        id=request.id,
        timeout_us=timeout_us(request.parameters),
        classes=classes,
    )


def decode_raw(body: bytes, expected: Sequence[TensorSpec]) -> Decoded:
    """A body that is nothing but the bytes of a model's only input: one row of it, where it has a batch axis.

    Raises:
        InvalidRequestError: the model has more inputs, or the bytes don't make up the input.
    """
    if len(expected) != 1:
        raise InvalidRequestError(f"only a model with one input takes a body without JSON; this has {len(expected)}")
    spec = expected[0]
    shape = [1, *spec.shape[1:]] if spec.shape[:1] == (-1,) else list(spec.shape)
    if shape.count(-1) == 1:  # the one that is left follows from the number of bytes
        rest = math.prod(size for size in shape if size != -1) * spec.dtype.itemsize
        shape[shape.index(-1)] = len(body) // rest if rest else 0
    if -1 in shape:
        raise InvalidRequestError(f"the shape of {spec} does not follow from a number of bytes; send JSON with it")
    inputs = {spec.name: read_binary(spec.name, spec.datatype, shape, body)}
    return Decoded(inputs, None, {}, True, "", None)


def encode(response: Response, request: Decoded) -> tuple[bytes, int | None]:
    """(The body of a response, bytes of its JSON where tensors follow it)."""
    tensors, behind = [], []
    for spec in response.outputs:
        array = response.arrays[spec.name]
        tensor = OutputTensor(name=spec.name, shape=list(array.shape), datatype=spec.datatype)
        if request.binary.get(spec.name, request.binary_default):
            content = write_binary(array)
            tensor.parameters = {"binary_data_size": len(content)}
            behind.append(content)
        else:
            tensor.data = msgspec.Raw(_plain(array))
        tensors.append(tensor)
    model = response.model
    message = InferenceResponse(model_name=model.name, model_version=model.version, id=request.id, outputs=tensors)
    head = write(message)
    if not behind:
        return head, None
    return b"".join((head, *behind)), len(head)


def _plain(array: Array) -> bytes:
    """The values as a flat list in JSON, made in parts: whoever makes it lets the event loop go on in between."""
    floating = array.dtype in (DATATYPES[name].numpy for name in ("FP16", "FP32", "FP64", "BF16"))
    flat = array.ravel()
    if array.dtype.kind == "O":  # BYTES
        return msgspec.json.encode([value.decode() for value in flat])
    parts = []
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        finite = not floating or bool(np.isfinite(part).all())
        part = part.astype(np.float32) if part.dtype == DATATYPES["BF16"].numpy else part
        parts.append(numbers(part.tolist(), finite=finite)[1:-1])
    return b"[" + b",".join(parts) + b"]"


def _inputs(tensors: Sequence[InputTensor], behind: memoryview) -> dict[str, Array]:
    found: dict[str, Array] = {}
    position = 0
    for tensor in tensors:
        if tensor.name in found:
            raise InvalidRequestError(f"duplicate input {tensor.name!r}")
        check_supported(tensor.parameters)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            found[tensor.name] = _from_json(tensor)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(behind) - position:
            raise InvalidRequestError(
                f"input {tensor.name!r} has binary_data_size {size!r}; {len(behind) - position} bytes are left behind the JSON"
            )
        found[tensor.name] = read_binary(tensor.name, tensor.datatype, tensor.shape, behind[position : position + size])
        position += size
    if position != len(behind):
        raise InvalidRequestError(f"{len(behind) - position} bytes behind the JSON belong to no input")
    return found


def _from_json(tensor: InputTensor) -> Array:
    """The array of an input's values, nested or flat."""
    kind = known(tensor.name, tensor.datatype)
    count = elements(tensor.name, tensor.shape)
    data = _decoded(tensor, count)
    if not isinstance(data, list):
        raise InvalidRequestError(f"input {tensor.name!r} has neither a list as its data nor binary_data_size")
    flat = _flat(tensor.name, data)
    if len(flat) != count:
        raise InvalidRequestError(f"input {tensor.name!r} has {len(flat)} values; its shape {tensor.shape} has {count}")
    # In parts, so that the event loop goes on in between.
    parts = [_part(tensor.name, flat[start : start + CHUNK], kind) for start in range(0, count, CHUNK)]
    found = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, kind.numpy)
    return found.reshape(tensor.shape)


def _decoded(tensor: InputTensor, count: int) -> Any:
    """An input's data. What holds more lists or numbers than its shape is not read: it would take seconds and gigabytes."""
    if not isinstance(tensor.data, msgspec.Raw):  # it had to be read already
        return tensor.data
    content = bytes(tensor.data)
    if not content.startswith(b"["):
        return None
    if content.count(b"[") > LISTS + sum(math.prod(tensor.shape[:axis]) for axis in range(len(tensor.shape))):
        raise InvalidRequestError(f"the data of input {tensor.name!r} has more lists than its shape {tensor.shape}")
    commas = content.count(b",")
    if commas > LISTS + count:
        raise InvalidRequestError(f"input {tensor.name!r} has about {commas + 1} values; its shape {tensor.shape} has {count}")
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the data of input {tensor.name!r} is not JSON: {error}") from None


def _flat(name: str, data: list[Any]) -> list[Any]:
    """The values of nested lists, which must be as long as each other.

    Raises:
        InvalidRequestError: they are not.
    """
    while data and isinstance(data[0], list):
        if set(map(type, data)) != {list} or len(set(map(len, data))) != 1:
            raise InvalidRequestError(f"the data of input {name!r} is not an array: its lists have different lengths or depths")
        data = list(chain.from_iterable(data))
    return data


def _part(name: str, data: list[Any], kind: DataType) -> Array:
    try:
        found = _array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequestError(f"the data of input {name!r} is not an array: {error}") from None
    if found.ndim != 1:
        raise InvalidRequestError(f"the data of input {name!r} is not an array: its lists have different depths")
    return _converted(name, found, kind.name, kind.numpy)


def _array(data: list[Any]) -> Array:
    found = np.array(data)
    if found.dtype.kind == "f" and all(type(value) is int for value in data):
        return np.array(data, object).astype(np.uint64)  # numpy's type for numbers beside some of 2**63 and more is float, too
    return found


def _converted(name: str, values: Array, datatype: str, dtype: np.dtype[Any]) -> Array:
    """JSON's numbers as a data type, if it holds them."""
    floating = datatype in ("FP16", "FP32", "FP64", "BF16")
    kinds = "b" if datatype == "BOOL" else "iuf" if floating else "iu"
    if values.dtype.kind not in kinds:
        words = {"b": "true and false", "iuf": "numbers", "iu": "whole numbers"}[kinds]
        raise InvalidRequestError(f"input {name!r} is {datatype}; its data must be {words}")
    with np.errstate(over="ignore"):
        found = values.astype(dtype)
    kept = np.isfinite(found) | ~np.isfinite(values) if floating else found == values
    if not kept.all():
        raise InvalidRequestError(f"input {name!r} holds a number that {datatype} does not")
    return found


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"parameter {name!r} is {value!r}; expected true or false")
    return value
