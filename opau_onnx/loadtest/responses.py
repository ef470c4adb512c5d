"""Inference requests and responses, whatever the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.protocol.tensors import DATATYPES, Array, TensorSpec


class InvalidResponseError(Exception):
    """A response of success that violates the protocol, or differs from the expected one."""


class StatusError(Exception):
    """An error response of the server.

    Attributes:
        status: "HTTP 500" or the name of a gRPC status.
        reason: the server's error message.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}" if reason else status)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Tensor:
    """One tensor of a response.

    Attributes:
        datatype: of the protocol.
        shape: its sizes.
        content: its bytes, little-endian, row by row.
    """

    datatype: str
    shape: tuple[int, ...]
    content: bytes

    def array(self) -> Array:
        """The values as a numpy array.

        Raises:
            InvalidResponseError: an unknown data type, or another number of bytes than the shape asks for.
        """
        if self.datatype not in DATATYPES:
            raise InvalidResponseError(f"datatype {self.datatype!r} is none of {', '.join(DATATYPES)}")
        dtype = DATATYPES[self.datatype].numpy
        try:
            return np.frombuffer(self.content, dtype).reshape(self.shape)
        except ValueError:
            raise InvalidResponseError(f"{len(self.content)} bytes for {self.datatype} of shape {list(self.shape)}") from None


def tensor(array: Array, datatype: str) -> Tensor:
    """The tensor of an array."""
    return Tensor(datatype, array.shape, np.ascontiguousarray(array).tobytes())


@dataclass(frozen=True)
class InferResponse:
    """The response to one request.

    Attributes:
        id: of the request, as the server returns it; "" where it does not.
        outputs: by name.
    """

    id: str
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class InferRequest:
    """One inference request before it is encoded.

    Attributes:
        number: its place in the pool.
        rows: sizes of its first axis.
        inputs: by name, in the model's order.
    """

    number: int
    rows: int
    inputs: Mapping[str, Array]

    @property
    def id(self) -> str:
        """Id that the server must return."""
        return f"opau-{self.number}"

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(x.nbytes for x in self.inputs.values())


@dataclass(frozen=True)
class ServedModel:
    """A model as its server describes it.

    Attributes:
        name: of the model.
        version: requested; None: the server chooses.
        inputs, outputs: with the batch axis; -1 for a dynamic one.
        metadata: the server's metadata of it, with its parameters where it has any.
        server: name, version and extensions of the server.
    """

    name: str
    version: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any]
    server: Mapping[str, Any]


def tensor_specs(described: Any) -> tuple[TensorSpec, ...]:
    """Tensors of the metadata's "inputs" or "outputs".

    Raises:
        InvalidResponseError: missing or malformed, or of a datatype that is not numeric.
    """
    if not isinstance(described, Sequence) or isinstance(described, str) or not described:
        raise InvalidResponseError("the model's metadata has no inputs or no outputs")
    return tuple(_spec(one) for one in described)


def _spec(one: Any) -> TensorSpec:
    try:
        found = TensorSpec(str(one["name"]), str(one["datatype"]), tuple(int(size) for size in one["shape"]))
    except (KeyError, TypeError, ValueError):
        raise InvalidResponseError(f"the model's metadata has the tensor {one!r}; expected name, datatype and shape") from None
    if found.datatype not in DATATYPES:
        raise InvalidResponseError(f"{found.name} is {found.datatype}; a load test supports {', '.join(DATATYPES)}")
    return found
