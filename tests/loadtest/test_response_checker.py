"""Response checks: tolerances, responses known by their bytes, requests that cannot be told apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx.loadtest import LoadTestError, wire
from opau_onnx.loadtest.recorder import CORRECT, INCORRECT
from opau_onnx.loadtest.response_checker import REMEMBERED, PreparedRequest, ResponseChecker, expectations, indistinguishable
from opau_onnx.loadtest.responses import InferResponse, InvalidResponseError, StatusError, Tensor, tensor, tensor_specs
from opau_onnx.loadtest.tolerance import GivenTolerance, MeasuredTolerance, Tolerance

NAMES = {"FP64": np.float64, "FP32": np.float32, "FP16": np.float16, "BF16": ml_dtypes.bfloat16}


def prepared(array: Any, datatype: str, tolerance: Tolerance | None = None, draws: Sequence[Any] = ()) -> PreparedRequest:
    """A request that expects ``array``; ``draws`` are the responses to nudged inputs."""
    moved = [[{"y": tensor(np.asarray(draw).astype(array.dtype), datatype)}] for draw in draws]
    (expected,) = expectations([{"y": tensor(array, datatype)}], tolerance or MeasuredTolerance(moved))
    return PreparedRequest(0, "opau-0", len(array) if array.ndim else 1, b"", expected)


def verdict(request: PreparedRequest, array: Any, datatype: str) -> str:
    response = InferResponse("opau-0", {"y": tensor(array, datatype)})
    return ResponseChecker(lambda content: response, [request]).check(request, array.tobytes())[0]


@pytest.mark.parametrize(("datatype", "digits"), [("FP64", 1e-8), ("FP32", 2.4e-4), ("FP16", 2.2e-2), ("BF16", 6.2e-2)])
def test_half_of_the_digits_where_nothing_was_nudged(datatype: str, digits: float) -> None:
    """Of the largest value in each column: that of -30,000 lends the other nothing. Of all where rows are few."""
    values = np.array([[0.0, -30000.0], [-2.0, 0.0]] * 8)
    request = prepared(values.astype(NAMES[datatype]), datatype)
    assert request.expected["y"].limit[0, 0] == pytest.approx(2 * digits, rel=0.07)
    assert request.expected["y"].limit[1, 1] == pytest.approx(30000 * digits, rel=0.07)
    near, far = values.copy(), values.copy()
    near[0, 0], far[0, 0] = 0.8 * 2 * digits, 1.2 * 2 * digits
    assert verdict(request, near.astype(NAMES[datatype]), datatype) == CORRECT
    assert verdict(request, far.astype(NAMES[datatype]), datatype) == INCORRECT
    assert prepared(values[:2].astype(NAMES[datatype]), datatype).expected["y"].limit[0, 0] == pytest.approx(
        30000 * digits, rel=0.07
    )


def test_each_element_has_the_tolerance_of_its_own_conditioning() -> None:
    """A column of 1e6 that moves by 0.1 allows itself that, and hides no wrong sign in a column of 1e-3."""
    want = np.array([[1e6, 1e-3], [2e6, 2e-3], [-1e6, -1e-3]], np.float32)
    draw = want + np.array([0.1, 1e-10], np.float32)
    request = prepared(want, "FP32", draws=[draw, want])
    assert verdict(request, want + np.array([1.0, 0.0], np.float32), "FP32") == CORRECT
    assert verdict(request, want + np.array([0.0, 1e-9], np.float32), "FP32") == CORRECT
    assert verdict(request, want + np.array([100.0, 0.0], np.float32), "FP32") == INCORRECT
    assert verdict(request, want * np.array([1.0, -1.0], np.float32), "FP32") == INCORRECT


def test_confident_probabilities_can_be_measured() -> None:
    """Most of them are smaller than what roundings of their logits move, which says nothing against the others."""
    rng = np.random.default_rng(0)
    logits = 10 * rng.standard_normal((1, 1000))
    want, draw = (softmax(x).astype(np.float32) for x in (logits, logits * (1 + 1e-6 * rng.standard_normal(logits.shape))))
    request = prepared(want, "FP32", draws=[draw])
    assert verdict(request, draw, "FP32") == CORRECT
    assert verdict(request, np.roll(want, 1, axis=1), "FP32") == INCORRECT


def softmax(x: Any) -> Any:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_integers_that_roundings_change_are_left_out() -> None:
    """The class of a tie is whichever the rounding gives; the others are exact."""
    want = np.array([3, 7, 1, 4])
    request = prepared(want, "INT64", draws=[np.array([3, 2, 1, 4]), want])
    assert verdict(request, np.array([3, 2, 1, 4]), "INT64") == CORRECT
    assert verdict(request, np.array([3, 7, 0, 4]), "INT64") == INCORRECT


@pytest.mark.parametrize(
    ("want", "draw", "said"),
    [
        (np.ones((2, 3), np.float32), np.zeros((2, 2)), r"output 'y' is \[2, 2\], and \[2, 3\] where"),
        (np.ones((2, 3), np.float32), np.full((2, 3), 9.0), "roundings of the inputs move it by so much that 512 would have"),
        (np.array([1, 2, 3]), np.array([2, 3, 4]), "roundings alone change 3 of 3"),
    ],
)
def test_no_tolerance_can_be_measured(want: Any, draw: Any, said: str) -> None:
    with pytest.raises(LoadTestError, match=said):
        prepared(want, "FP32" if want.dtype == np.float32 else "INT64", draws=[draw])


def test_whole_numbers_are_exact_and_truth_values_too() -> None:
    assert verdict(prepared(np.array([5, 10**9]), "INT64"), np.array([5, 10**9 + 1]), "INT64") == INCORRECT
    loose = GivenTolerance(rtol=1.0, atol=1.0)
    assert verdict(prepared(np.array([5]), "INT64", loose), np.array([6]), "INT64") == INCORRECT
    assert verdict(prepared(np.array([True]), "BOOL"), np.array([False]), "BOOL") == INCORRECT


def test_the_users_tolerance() -> None:
    want = np.array([1.0, 100.0, 0.0], np.float32)
    relative = prepared(want, "FP32", GivenTolerance(rtol=0.1, atol=0.0))
    assert verdict(relative, np.array([1.05, 109.0, 0.0], np.float32), "FP32") == CORRECT
    assert verdict(relative, np.array([1.0, 100.0, 0.001], np.float32), "FP32") == INCORRECT
    absolute = prepared(want, "FP32", GivenTolerance(rtol=0.0, atol=0.5))
    assert verdict(absolute, want + np.float32(0.4), "FP32") == CORRECT
    assert verdict(absolute, want + np.float32(0.6), "FP32") == INCORRECT


def test_nan_and_infinity_are_data() -> None:
    want = np.array([np.nan, np.inf, -np.inf, 1.0, 1e30], np.float32)
    request = prepared(want, "FP32")
    assert verdict(request, want.copy(), "FP32") == CORRECT
    nudged = want.copy()
    nudged[3] = np.nextafter(np.float32(1), np.float32(2))
    assert verdict(request, nudged, "FP32") == CORRECT
    for i, other in ((0, 0.0), (1, 3e38), (1, -np.inf), (3, np.nan), (4, np.inf)):
        wrong = want.copy()
        wrong[i] = other
        assert verdict(request, wrong, "FP32") == INCORRECT, (i, other)


def test_no_rows_and_no_axes() -> None:
    assert verdict(prepared(np.zeros((0, 3), np.float32), "FP32"), np.zeros((0, 3), np.float32), "FP32") == CORRECT
    one = expectations([{"y": tensor(np.float32(2.0).reshape(()), "FP32")}], MeasuredTolerance(()))[0]
    request = PreparedRequest(0, "opau-0", 1, b"", one)
    assert verdict(request, np.float32(2.0).reshape(()), "FP32") == CORRECT
    assert verdict(request, np.float32(3.0).reshape(()), "FP32") == INCORRECT
    assert indistinguishable([request, request]) == 2


def test_what_was_found_correct_is_known_by_its_bytes() -> None:
    request = prepared(np.array([1.0], np.float32), "FP32")
    reads = 0

    def read(content: Any) -> InferResponse:
        nonlocal reads
        reads += 1
        return InferResponse("", {"y": Tensor("FP32", (1,), content)})

    checker = ResponseChecker(read, [request])
    contents = [np.float32(1 + i * 2.0**-22).tobytes() for i in range(REMEMBERED + 3)]
    assert [checker.check(request, content) for content in contents] == [(CORRECT, "")] * len(contents)
    assert len(request.known) == REMEMBERED
    before = reads
    assert checker.check(request, contents[-1]) == (CORRECT, "")
    assert reads == before
    assert checker.check(request, np.float32(2).tobytes())[0] == INCORRECT
    assert checker.check(request, np.float32(2).tobytes())[0] == INCORRECT


def test_indistinguishable() -> None:
    def pool(*rows: list[float]) -> list[PreparedRequest]:
        responses = [{"y": tensor(np.array([row], np.float32), "FP32"), "n": tensor(np.array([7]), "INT64")} for row in rows]
        return [PreparedRequest(i, "", 1, b"", e) for i, e in enumerate(expectations(responses, MeasuredTolerance(())))]

    assert indistinguishable(pool([1.0, 2.0], [2.0, 1.0], [1.0, 3.0])) == 0
    assert indistinguishable(pool([1.0, 2.0], [2.0, 1.0], [1.0, 2.00001])) == 2
    assert indistinguishable(pool([0.0] * 3000, [0.0] * 3000, [0.0] * 2999 + [1.0], [1.0])) == 2


def test_other_shapes_and_datatypes_are_wrong() -> None:
    request = prepared(np.ones((2, 3), np.float32), "FP32")
    checker = ResponseChecker(lambda content: content, [request])
    for array, datatype in ((np.ones((3, 2), np.float32), "FP32"), (np.ones((2, 3)), "FP64")):
        kind, reason = checker.check(request, InferResponse("", {"y": tensor(array, datatype)}))
        assert kind == INCORRECT
        assert "expected FP32 [2, 3]" in reason
    kind, reason = checker.check(request, InferResponse("", {"y": Tensor("FP32", (2, 3), b"1234")}))
    assert (kind, reason) == (INCORRECT, "4 bytes for FP32 of shape [2, 3]")


Y = {"name": "y", "datatype": "FP32", "shape": [1]}
FOUR = json.dumps({"outputs": [{**Y, "parameters": {"binary_data_size": 4}}]}).encode()


@pytest.mark.parametrize(
    ("text", "behind", "length", "said"),
    [
        (b"nonsense", b"", None, "not JSON"),
        (b"[1]", b"", None, "not a JSON object"),
        (b"{}", b"", None, "no list of outputs"),
        (b'{"outputs": [1]}', b"", None, "an output without name"),
        (json.dumps({"outputs": [Y]}).encode(), b"", None, "neither binary_data_size nor numbers"),
        (FOUR, b"12", None, "2 bytes are left"),
        (FOUR, b"12345", None, "belong to no output"),
        (b"{}", b"", b"99", "Inference-Header-Content-Length is '99'"),
        (b"{}", b"", b"-1", "Inference-Header-Content-Length is '-1'"),
    ],
)
def test_responses_that_are_none(text: bytes, behind: bytes, length: bytes | None, said: str) -> None:
    with pytest.raises(InvalidResponseError, match=said):
        wire.parse(wire.Content(b"%d" % len(text) if behind else length, text + behind))


def test_an_error_with_a_status_of_success() -> None:
    with pytest.raises(StatusError, match="HTTP 200: broken"):
        wire.parse(wire.Content(None, b'{"error": "broken"}'))


@pytest.mark.parametrize(
    "described", [None, [], [{"name": "x"}], [{"name": "x", "datatype": "BYTES", "shape": [1]}], "x"], ids=str
)
def test_metadata_that_cannot_be_loaded(described: Any) -> None:
    with pytest.raises(InvalidResponseError):
        tensor_specs(described)
