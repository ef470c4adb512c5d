"""The JSON of inference requests and answers, as the Open Inference Protocol and its binary-tensor extension define it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec

from opau_onnx.protocol.errors import InvalidRequestError

Size = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Parameters = dict[str, Any]


class InputTensor(msgspec.Struct, kw_only=True):
    """An input: its values in ``data``, or ``binary_data_size`` bytes behind the JSON."""

    name: str
    shape: list[Size]
    datatype: str
    parameters: Parameters = {}
    data: Any = msgspec.UNSET


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
    """An output of an answer."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: Any = msgspec.UNSET


class InferenceResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of an answer."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputTensor]


class Failure(msgspec.Struct):
    """The body of every answer with another status than 200."""

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
    try:
        raw = json.loads(bytes(content))
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"the request is not JSON: {first}") from None
    try:
        return msgspec.convert(raw, InferenceRequest)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidRequestError(f"the request is not one of the Open Inference Protocol: {error}") from None


def write(response: InferenceResponse, *, finite: bool) -> bytes:
    """Encode an answer.

    Args:
        response: its tensors hold plain lists.
        finite: whether all its numbers are; others are written as :func:`read` takes them.
    """
    if finite:
        return _encode(response)
    return json.dumps(msgspec.to_builtins(response), separators=(",", ":")).encode()
