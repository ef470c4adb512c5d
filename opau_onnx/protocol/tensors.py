"""Tensors of the Open Inference Protocol: their data types, what a model asks for, and whether an array is that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from opau_onnx.protocol.errors import InvalidRequestError

Array = NDArray[Any]


@dataclass(frozen=True)
class DataType:
    """One data type under its names.

    Attributes:
        name: of the Open Inference Protocol; Triton's ModelConfig has TYPE_ before it.
        numpy: numpy's dtype (ml_dtypes' for BF16); its bytes are those of the protocol, little-endian.
        onnx: the name in onnxruntime's ``tensor(...)``.
        element: ONNX's TensorProto.DataType.
    """

    name: str
    numpy: np.dtype[Any]
    onnx: str
    element: int


def _type(name: str, numpy: Any, onnx: str, element: int) -> DataType:
    return DataType(name, np.dtype(numpy), onnx, element)


DATATYPES: dict[str, DataType] = {
    t.name: t
    for t in (
        _type("BOOL", np.bool_, "bool", 9),
        _type("UINT8", np.uint8, "uint8", 2),
        _type("UINT16", np.uint16, "uint16", 4),
        _type("UINT32", np.uint32, "uint32", 12),
        _type("UINT64", np.uint64, "uint64", 13),
        _type("INT8", np.int8, "int8", 3),
        _type("INT16", np.int16, "int16", 5),
        _type("INT32", np.int32, "int32", 6),
        _type("INT64", np.int64, "int64", 7),
        _type("FP16", np.float16, "float16", 10),
        _type("FP32", np.float32, "float", 1),
        _type("FP64", np.float64, "double", 11),
        _type("BF16", ml_dtypes.bfloat16, "bfloat16", 16),
    )
}
"""By the protocol's name, but for BYTES: models with strings are not served."""
BYTES = "BYTES"
"""Data type of classes, which are text; such arrays hold objects."""
LARGEST_RANK = 64
"""Axes of numpy's arrays."""
LARGEST_SIZE = 2**59
"""Elements of 8 bytes that numpy can count."""
_BY_ONNX = {f"tensor({t.onnx})": t for t in DATATYPES.values()}


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output.

    Attributes:
        name: in the graph.
        datatype: a key of :data:`DATATYPES`.
        shape: the batch axis included; -1 for an open axis.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype."""
        return DATATYPES[self.datatype].numpy

    def fits(self, shape: Sequence[int]) -> bool:
        """True where a tensor of this shape fits."""
        return len(shape) == len(self.shape) and all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype} {list(self.shape)}"


def specs(arguments: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Those of onnxruntime's NodeArgs.

    Raises:
        ValueError: a data type that the protocol's tensors do not have.
    """
    return tuple(_spec(argument) for argument in arguments)


def _spec(argument: Any) -> TensorSpec:
    if argument.type not in _BY_ONNX:
        raise ValueError(f"{argument.name} is a {argument.type}; tensors of {', '.join(DATATYPES)} can be served")
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    return TensorSpec(argument.name, _BY_ONNX[argument.type].name, shape)


def read_binary(spec_name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview) -> Array:
    """An array of the protocol's bytes: little-endian, row by row. It may look into ``content``.

    Raises:
        InvalidRequestError: an unknown data type, or another number of bytes than the shape asks for.
    """
    kind = known(spec_name, datatype)
    expected = elements(spec_name, shape) * kind.numpy.itemsize
    if len(content) != expected:
        raise InvalidRequestError(
            f"input {spec_name!r} has {len(content)} bytes; {datatype} of shape {list(shape)} has {expected}"
        )
    if kind.name == "BOOL":  # any byte but 0 and 1 would be undefined behaviour further on
        return np.frombuffer(content, np.uint8).reshape(shape).astype(np.bool_)
    return np.frombuffer(content, kind.numpy).reshape(shape)


def known(name: str, datatype: str) -> DataType:
    """The data type, or the error that names those there are."""
    if datatype not in DATATYPES:
        raise InvalidRequestError(f"input {name!r} has datatype {datatype!r}; expected one of {', '.join(DATATYPES)}")
    return DATATYPES[datatype]


def elements(name: str, shape: Sequence[int]) -> int:
    """Number of elements of a shape that a client sent."""
    if len(shape) > LARGEST_RANK:
        raise InvalidRequestError(f"input {name!r} has {len(shape)} axes; expected {LARGEST_RANK} at most")
    if any(size < 0 for size in shape):
        raise InvalidRequestError(f"input {name!r} has shape {list(shape)}; sizes cannot be negative")
    count = math.prod(shape)
    if not count and math.prod(size or 1 for size in shape) >= LARGEST_SIZE:  # numpy multiplies the others, too
        raise InvalidRequestError(f"input {name!r} has shape {list(shape)}, which is too large even without elements")
    return count


def write_binary(array: Array) -> bytes:
    """The protocol's bytes of an array; those of BYTES have their length before them."""
    if array.dtype.kind == "O":
        return b"".join(len(value).to_bytes(4, "little") + value for value in array.ravel())
    return array.tobytes()


def check_inputs(inputs: Mapping[str, Array], expected: Sequence[TensorSpec]) -> None:
    """Check that these are a model's inputs, all of them and no others.

    Raises:
        InvalidRequestError: they are not; the message names what is expected.
    """
    for spec in expected:
        array = inputs.get(spec.name)
        if array is None:
            raise InvalidRequestError(f"input {spec.name!r} is missing; {_listed(expected)}")
        if array.dtype != spec.dtype:
            raise InvalidRequestError(f"input {spec.name!r} is {_name(array)}; expected {spec.datatype}")
        if not spec.fits(array.shape):
            raise InvalidRequestError(
                f"input {spec.name!r} has shape {list(array.shape)}; expected {list(spec.shape)} (-1: any size)"
            )
    if len(inputs) != len(expected):
        unknown = sorted(set(inputs) - {spec.name for spec in expected})
        raise InvalidRequestError(f"the model has no input {unknown[0]!r}; {_listed(expected)}")


def _listed(expected: Sequence[TensorSpec]) -> str:
    return "expected " + ", ".join(map(str, expected))


def _name(array: Array) -> str:
    return next((t.name for t in DATATYPES.values() if t.numpy == array.dtype), str(array.dtype))
