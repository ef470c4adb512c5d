"""The JSON of inference requests and responses, as the Open Inference Protocol and its binary-tensor extension define it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from opau_onnx.protocol.errors import InvalidRequestError

Size = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Parameters = dict[str, str | int | float | bool | None]
MOST_LISTS = 4096
"""In JSON with NaN or infinities, which only Python's own slow decoder reads; flat data needs one list a tensor."""

if TYPE_CHECKING:
    Data = Any
else:
    Data = msgspec.Raw | msgspec.UnsetType


class InputTensor(msgspec.Struct, kw_only=True):
    """An input: its values in ``data``, or ``binary_data_size`` bytes behind the JSON.

    Attributes:
        data: JSON that is not decoded before the shape says how much of it there may be; a list where it was decoded already.
    """

    name: str
    shape: list[Size]
    datatype: str
    parameters: Parameters = {}
    data: Data = msgspec.UNSET


class RequestedOutput(msgspec.Struct, kw_only=True):
    """An output that is wanted; with ``binary_data`` true as bytes behind the JSON."""

    name: str
    parameters: Parameters = {}


class InferenceRequest(msgspec.Struct, kw_only=True):
    """The body of a request for inference."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[RequestedOutput] = []


class OutputTensor(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An output of a response."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: Any = msgspec.UNSET


class InferenceResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of a response."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputTensor]


class Failure(msgspec.Struct):
    """The body of every response with another status than 200."""

    error: str


_decode = msgspec.json.Decoder(InferenceRequest).decode
_encode = msgspec.json.Encoder().encode


def read(content: bytes | memoryview) -> InferenceRequest:
    """Decode a request. ``NaN``, ``Infinity`` and ``-Infinity`` are numbers here, as Python and Triton write them.

    Raises:
        InvalidRequestError: it is not JSON, or not a request; the message says where.
    """
    try:
        return _decode(content)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"the request is not one of the Open Inference Protocol: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _read_with_nan(content, error)


def _read_with_nan(content: bytes | memoryview, first: Exception) -> InferenceRequest:
    whole = bytes(content)
    if whole.count(b"[") > MOST_LISTS:
        raise InvalidRequestError(
            f"the request is not JSON: {first}; NaN and infinities are read in flat data or as binary data"
        )
    try:
        raw = json.loads(whole)
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"the request is not JSON: {first}") from None
    try:
        tensors = raw.get("inputs") if isinstance(raw, dict) else None
        values = [t.pop("data", None) if isinstance(t, dict) else None for t in tensors] if isinstance(tensors, list) else []
        request = msgspec.convert(raw, InferenceRequest)
        _encode(request)  # Python's decoder takes half a surrogate pair for text, which no response can hold
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidRequestError(f"the request is not one of the Open Inference Protocol: {error}") from None
    for tensor, data in zip(request.inputs, values, strict=True):
        tensor.data = data
    return request


def write(response: InferenceResponse) -> bytes:
    """Encode a response; its tensors' data are JSON already."""
    return _encode(response)


def numbers(data: list[Any], *, finite: bool) -> bytes:
    """JSON of a flat list of numbers or bools; those that are not finite are written as :func:`read` takes them."""
    return _encode(data) if finite else json.dumps(data, separators=(",", ":")).encode()
