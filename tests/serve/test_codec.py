"""Bodies of HTTP requests and responses: every data type in every form, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opau_onnx.protocol.errors import InvalidRequestError
from opau_onnx.protocol.tensors import DATATYPES, TensorSpec
from opau_onnx.serve.http.codec import decode, decode_raw, encode

VALUES = {
    "BOOL": [True, False, True, False],
    "BF16": [1.5, -2.0, float("nan"), float("inf")],
    "FP16": [1.5, -2.0, float("nan"), float("-inf")],
    "FP32": [1.5, 1e-30, float("nan"), float("inf")],
    "FP64": [1.5, 1e-300, float("nan"), float("-inf")],
}


def example(datatype: str) -> np.ndarray:
    dtype = DATATYPES[datatype].numpy
    if datatype in VALUES:
        return np.array(VALUES[datatype]).astype(dtype).reshape(2, 2)
    limits = np.iinfo(dtype)
    return np.array([limits.min, limits.max, 1, 0], dtype).reshape(2, 2)


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def equal(a: np.ndarray, b: np.ndarray) -> None:
    """Every NaN is the same."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    wide = np.float64 if a.dtype == ml_dtypes.bfloat16 else a.dtype
    np.testing.assert_array_equal(a.astype(wide), b.astype(wide))


def body(tensors: list[dict], behind: bytes = b"", **more: Any) -> tuple[bytes, int]:
    head = json.dumps({"inputs": tensors, **more}).encode()
    return head + behind, len(head)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_binary_inputs(datatype: str) -> None:
    x = example(datatype)
    content = x.tobytes()
    tensor = {"name": "x", "shape": [2, 2], "datatype": datatype, "parameters": {"binary_data_size": len(content)}}
    whole, size = body([tensor], content)
    same(decode(whole, size).inputs["x"], x)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_json_inputs(datatype: str, nested: bool) -> None:
    x = example(datatype)
    plain = x.astype(np.float64) if datatype == "BF16" else x
    data = plain.tolist() if nested else plain.ravel().tolist()
    got = decode(body([{"name": "x", "shape": [2, 2], "datatype": datatype, "data": data}])[0], None).inputs["x"]
    equal(got, x)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_outputs(datatype: str, binary: bool) -> None:
    x = example(datatype)
    model = SimpleNamespace(name="m", version="1")
    answer: Any = SimpleNamespace(model=model, outputs=(TensorSpec("y", datatype, (-1, 2)),), arrays={"y": x})
    empty = {"name": "x", "shape": [0], "datatype": "FP32", "data": []}
    asked = body([empty], id="7", parameters={"binary_data_output": binary})
    content, size = encode(answer, decode(asked[0], None))
    assert (size is not None) == binary
    head = json.loads(content[:size])
    assert head["id"] == "7"
    assert head["outputs"][0]["shape"] == [2, 2]
    assert head["outputs"][0]["datatype"] == datatype
    if binary:
        assert content[size:] == x.tobytes()
    else:
        dtype = object if datatype == "UINT64" else None
        equal(np.array(head["outputs"][0]["data"], dtype).astype(x.dtype).reshape(2, 2), x)


def test_several_inputs_some_binary() -> None:
    a, b = np.arange(3, dtype=np.float32), np.arange(4, dtype=np.int64)
    tensors = [
        {"name": "a", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
        {"name": "c", "shape": [1], "datatype": "BOOL", "data": [True]},
        {"name": "b", "shape": [2, 2], "datatype": "INT64", "parameters": {"binary_data_size": 32}},
    ]
    whole, size = body(tensors, a.tobytes() + b.tobytes(), outputs=[{"name": "y", "parameters": {"binary_data": True}}])
    got = decode(whole, size)
    same(got.inputs["a"], a)
    same(got.inputs["b"], b.reshape(2, 2))
    assert got.inputs["c"].tolist() == [True]
    assert got.outputs == ["y"]
    assert got.binary == {"y": True}


def test_any_byte_is_a_truth_value() -> None:
    tensor = {"name": "x", "shape": [4], "datatype": "BOOL", "parameters": {"binary_data_size": 4}}
    whole, size = body([tensor], bytes([0, 1, 2, 255]))
    got = decode(whole, size).inputs["x"]
    assert got.tobytes() == bytes([0, 1, 1, 1])


X = {"name": "x", "shape": [2], "datatype": "FP32"}
BAD = {
    "not JSON": (b"{", "not JSON"),
    "no inputs": (b"{}", "missing required field `inputs`"),
    "a list": (b"[]", "Expected `object`"),
    "a name that is a number": (body([{**X, "name": 1, "data": [1, 2]}])[0], "inputs.*name"),
    "a negative size": (body([{**X, "shape": [-2], "data": [1, 2]}])[0], "shape"),
    "a fraction as a size": (body([{**X, "shape": [2.5], "data": [1, 2]}])[0], "shape"),
    "no data": (body([X])[0], "neither"),
    "data that is a string": (body([{**X, "data": "ab"}])[0], "neither"),
    "too few values": (body([{**X, "data": [1]}])[0], "has 1 values; its shape"),
    "ragged": (body([{**X, "data": [[1, 2], [3]]}])[0], "is not an array"),
    "null": (body([{**X, "data": [1, None]}])[0], "must be numbers"),
    "strings": (body([{**X, "data": ["1", "2"]}])[0], "must be numbers"),
    "truth values as numbers": (body([{**X, "data": [True, False]}])[0], "must be numbers"),
    "numbers as truth values": (body([{**X, "datatype": "BOOL", "data": [1, 0]}])[0], "true and false"),
    "fractions as whole numbers": (body([{**X, "datatype": "INT8", "data": [1.5, 0]}])[0], "whole numbers"),
    "300 as a byte": (body([{**X, "datatype": "UINT8", "data": [300, 0]}])[0], "does not"),
    "-1 without a sign": (body([{**X, "datatype": "UINT64", "data": [-1, 0]}])[0], "does not"),
    "1e39 in single precision": (body([{**X, "data": [1e39, 0]}])[0], "does not"),
    "1e300 in half precision": (body([{**X, "datatype": "FP16", "data": [1e300, 0]}])[0], "does not"),
    "an unknown type": (body([{**X, "datatype": "FP99", "data": [1, 2]}])[0], "expected one of BOOL"),
    "strings as a type": (body([{**X, "datatype": "BYTES", "data": ["a", "b"]}])[0], "expected one of BOOL"),
    "twice": (body([{**X, "data": [1, 2]}, {**X, "data": [1, 2]}])[0], "duplicate input"),
    "an output twice": (body([{**X, "data": [1, 2]}], outputs=[{"name": "y"}, {"name": "y"}])[0], "duplicate output 'y'"),
    "classes of an input": (body([{**X, "parameters": {"classification": 3}}])[0], "classification.*not supported"),
    "classes in words": (
        body([{**X, "data": [1, 2]}], outputs=[{"name": "y", "parameters": {"classification": "all"}}])[0],
        "classification.*of output 'y' is 'all'; expected a whole number",
    ),
    "shared memory": (body([{**X, "parameters": {"shared_memory_region": "r"}}])[0], "not supported"),
    "a sequence": (body([{**X, "data": [1, 2]}], parameters={"sequence_id": 5})[0], "not supported"),
    "a timeout in words": (body([{**X, "data": [1, 2]}], parameters={"timeout": "soon"})[0], "microseconds"),
    "binary_data in words": (
        body([{**X, "data": [1, 2]}], outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}])[0],
        "true or false",
    ),
    "half a surrogate pair": (
        b'{"id": "\\ud800", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}', "surrogates",
    ),
    "deep": (b'{"inputs":' + b"[" * 100_000, "JSON|Protocol"),
    "a size beyond everything": (body([{**X, "shape": [2**60], "data": []}])[0], "shape"),
    "invalid UTF-8": (b'{"inputs": [{"name": "\xff", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', "JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_json(case: str) -> None:
    content, message = BAD[case]
    with pytest.raises(InvalidRequestError, match=message):
        decode(content, None)


def binary(size: Any, behind: bytes, header: int | None = None) -> None:
    whole, length = body([{**X, "parameters": {"binary_data_size": size}}], behind)
    decode(whole, length if header is None else header)


@pytest.mark.parametrize(
    ("size", "behind", "message"),
    [
        (7, bytes(7), "has 7 bytes; FP32 of shape .2. has 8"),
        (8, bytes(4), "4 bytes are left"),
        (8, bytes(12), "4 bytes behind the JSON belong to no input"),
        (-1, bytes(8), "binary_data_size -1"),
        ("8", bytes(8), "binary_data_size '8'"),
        (True, bytes(1), "binary_data_size True"),
    ],
)
def test_bad_binary(size: Any, behind: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        binary(size, behind)


def test_a_header_longer_than_the_body() -> None:
    with pytest.raises(InvalidRequestError, match="the body has"):
        binary(8, bytes(8), header=10_000)


def test_bytes_alone() -> None:
    x = np.arange(6, dtype=np.float32)
    got = decode_raw(x.tobytes(), [TensorSpec("x", "FP32", (-1, 2, -1))])
    same(got.inputs["x"], x.reshape(1, 2, 3))
    assert got.binary_default
    for specs, message in [
        ([TensorSpec("x", "FP32", (-1, 3)), TensorSpec("y", "FP32", (-1, 3))], "one input"),
        ([TensorSpec("x", "FP32", (-1, 5))], "24 bytes"),
        ([TensorSpec("x", "FP32", (-1, -1, -1))], "does not follow"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            decode_raw(x.tobytes(), specs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=3) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "datatype": st.sampled_from([*DATATYPES, "BYTES"]) | JSON,
        "data": st.lists(st.integers() | st.floats() | st.booleans(), max_size=6) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | JSON}) | JSON,
    },
)
OUTPUTS = st.lists(st.fixed_dictionaries({"name": JSON, "parameters": JSON}))
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3) | JSON}, optional={"id": JSON, "parameters": JSON, "outputs": OUTPUTS | JSON}
)


@settings(max_examples=400, deadline=None)
@given(REQUEST, st.binary(max_size=64), st.none() | st.integers(-3, 400))
def test_any_json_is_a_request_or_refused(request: Any, behind: bytes, header: int | None) -> None:
    try:
        got = decode(json.dumps(request).encode() + behind, header)
    except InvalidRequestError:
        return
    assert all(isinstance(array, np.ndarray) for array in got.inputs.values())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 200))
def test_any_bytes_are_a_request_or_refused(content: bytes, header: int | None) -> None:
    with pytest.raises(InvalidRequestError):
        decode(content, header)


def test_bfloat16_is_ml_dtypes() -> None:
    assert DATATYPES["BF16"].numpy == ml_dtypes.bfloat16
