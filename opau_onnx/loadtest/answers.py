"""Inference requests and responses, whatever the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.protocol.tensors import DATATYPES, Array, TensorSpec


class BadAnswerError(Exception):
    """An answer that says success and is none: not of the protocol, or not what was asked for."""


class StatusError(Exception):
    """An answer that says that the request failed.

    Attributes:
        status: "HTTP 500" or the name of a gRPC status.
        reason: the server's own words.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}" if reason else status)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Tensor:
    """One tensor of an answer.

    Attributes:
        datatype: of the protocol.
        shape: its sizes.
        content: its bytes, little-endian, row by row.
    """

    datatype: str
    shape: tuple[int, ...]
    content: bytes

    def array(self) -> Array:
        """The numbers.

        Raises:
            BadAnswerError: an unknown data type, or another number of bytes than the shape asks for.
        """
        if self.datatype not in DATATYPES:
            raise BadAnswerError(f"datatype {self.datatype!r} is none of {', '.join(DATATYPES)}")
        dtype = DATATYPES[self.datatype].numpy
        try:
            return np.frombuffer(self.content, dtype).reshape(self.shape)
        except ValueError:
            raise BadAnswerError(f"{len(self.content)} bytes for {self.datatype} of shape {list(self.shape)}") from None


def tensor(array: Array, datatype: str) -> Tensor:
    """The tensor of an array."""
    return Tensor(datatype, array.shape, np.ascontiguousarray(array).tobytes())


@dataclass(frozen=True)
class Answer:
    """An answer to one request.

    Attributes:
        id: of the request that it answers, as the server says; "" where it does not.
        outputs: by name.
    """

    id: str
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Question:
    """One request before it is a message.

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
        """Expected outputs."""
        return f"opau-{self.number}"

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(x.nbytes for x in self.inputs.values())


@dataclass(frozen=True)
class Model:
    """A model as its server describes it.

    Attributes:
        name: of the model.
        version: that was asked for; None: the server chooses.
        inputs, outputs: with the batch axis; -1 for an open one.
        metadata: all that the server says of it, with its parameters where it has any.
        server: name, version and extensions of the server.
    """

    name: str
    version: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any]
    server: Mapping[str, Any]


def tensor_specs(described: Any) -> tuple[TensorSpec, ...]:
    """Those of the metadata's "inputs" or "outputs".

    Raises:
        BadAnswerError: they are none, or of a data type that has no numbers.
    """
    if not isinstance(described, Sequence) or isinstance(described, str) or not described:
        raise BadAnswerError("the model's metadata name no inputs or no outputs")
    return tuple(_spec(one) for one in described)


def _spec(one: Any) -> TensorSpec:
    try:
        found = TensorSpec(str(one["name"]), str(one["datatype"]), tuple(int(size) for size in one["shape"]))
    except (KeyError, TypeError, ValueError):
        raise BadAnswerError(f"the model's metadata describe a tensor as {one!r}; expected name, datatype and shape") from None
    if found.datatype not in DATATYPES:
        raise BadAnswerError(f"{found.name} is {found.datatype}; a load test can be made of {', '.join(DATATYPES)}")
    return found
