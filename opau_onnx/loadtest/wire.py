"""Requests and responses of the Open Inference Protocol over HTTP, with binary tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from opau_onnx.loadtest.config import Target
from opau_onnx.loadtest.responses import InferRequest, InferResponse, InvalidResponseError, ServedModel, StatusError, Tensor
from opau_onnx.protocol.tensors import DATATYPES

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header of the binary-tensor extension: length of the JSON before the tensors."""
LONGEST_REASON = 300


class Content(NamedTuple):
    """Content of a response.

    Attributes:
        header_length: value of :data:`HEADER_LENGTH`; None where it is missing.
        body: all bytes.
    """

    header_length: bytes | None
    body: bytes


def head(target: Target, method: str, path: str, token: str | None, headers: Mapping[str, str]) -> bytes:
    """Request line and headers."""
    common = {"Host": target.authority, "User-Agent": "opau-loadtest"}
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in {**common, **authorization, **headers}.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def encode(target: Target, model: ServedModel, request: InferRequest, token: str | None) -> bytes:
    """Encode an inference request."""
    arrays = [(spec, np.ascontiguousarray(request.inputs[spec.name])) for spec in model.inputs]
    inputs = [
        {
            "name": spec.name, "datatype": spec.datatype, "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for spec, array in arrays
    ]  # fmt: skip
    outputs = [{"name": spec.name, "parameters": {"binary_data": True}} for spec in model.outputs]
    text = json.dumps({"id": request.id, "inputs": inputs, "outputs": outputs}, separators=(",", ":")).encode()
    tensors = [array.tobytes() for _, array in arrays]
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(text) + sum(map(len, tensors))),
        HEADER_LENGTH: str(len(text)),
    }
    path = f"{target.model_path(model.name, model.version)}/infer"
    return b"".join([head(target, "POST", path, token, headers), text, *tensors])


def parse(content: Content) -> InferResponse:
    """Parse a response of status 200.

    Raises:
        StatusError: its body is an error.
        InvalidResponseError: it violates the protocol.
    """
    described, binary = _split(content)
    if "error" in described and "outputs" not in described:
        raise StatusError("HTTP 200", str(described["error"])[:LONGEST_REASON])
    outputs: dict[str, Tensor] = {}
    position = 0
    for one in _listed(described.get("outputs")):
        try:
            name, datatype, shape = one["name"], one["datatype"], tuple(int(size) for size in one["shape"])
            size = (one.get("parameters") or {}).get("binary_data_size")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InvalidResponseError(f"an output without name, datatype and shape: {str(one)[:LONGEST_REASON]}") from None
        if size is None:
            outputs[name] = Tensor(datatype, shape, _from_json(one, datatype))
            continue
        if not isinstance(size, int) or not 0 <= size <= len(binary) - position:
            raise InvalidResponseError(f"binary_data_size is {size}; {len(binary) - position} bytes are left after the JSON")
        outputs[name] = Tensor(datatype, shape, binary[position : position + size])
        position += size
    if position != len(binary):
        raise InvalidResponseError(f"{len(binary) - position} bytes after the JSON belong to no output")
    return InferResponse(str(described.get("id") or ""), outputs)


def _split(content: Content) -> tuple[dict[str, Any], bytes]:
    """Split into the JSON and the binary tensors."""
    length, body = content
    if length is not None and not (length.isdigit() and int(length) <= len(body)):
        raise InvalidResponseError(f"{HEADER_LENGTH} is {length.decode('latin-1')!r}; the body has {len(body)} bytes")
    size = len(body) if length is None else int(length)
    try:
        described = json.loads(body[:size])
    except (ValueError, RecursionError) as error:
        raise InvalidResponseError(f"the response is not JSON: {error}") from None
    if not isinstance(described, dict):
        raise InvalidResponseError("the response is not a JSON object")
    return described, body[size:]


def _listed(outputs: Any) -> list[Any]:
    if not isinstance(outputs, list):
        raise InvalidResponseError("the response has no list of outputs")
    return outputs


def _from_json(one: Mapping[str, Any], datatype: str) -> bytes:
    """The bytes of a tensor that came as a list of numbers."""
    try:
        return np.array(one["data"]).astype(DATATYPES[datatype].numpy).tobytes()
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InvalidResponseError(
            f"output {one.get('name')!r} has neither binary_data_size nor numbers of its datatype"
        ) from None


def reason(body: bytes) -> str:
    """Error message in the body of an error response."""
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body.decode("utf-8", "replace")
    return " ".join(str(text).split())[:LONGEST_REASON]
