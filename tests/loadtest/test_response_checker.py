"""Right and wrong: tolerances, what is remembered, which requests could be mixed up unseen."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx.loadtest import wire
from opau_onnx.loadtest.answers import Answer, BadAnswerError, StatusError, Tensor, tensor, tensor_specs
from opau_onnx.loadtest.recorder import RIGHT, WRONG
from opau_onnx.loadtest.response_checker import REMEMBERED, Request, ResponseChecker, expectations, lookalikes
from opau_onnx.loadtest.tolerance import Tolerance

NAMES = {"FP64": np.float64, "FP32": np.float32, "FP16": np.float16, "BF16": ml_dtypes.bfloat16}


def request_for(array: Any, datatype: str, tolerance: Tolerance | None = None) -> Request:
    (expected,) = expectations([{"y": tensor(array, datatype)}], tolerance or Tolerance())
    return Request(0, "opau-0", len(array), b"", expected)


def verdict(request: Request, array: Any, datatype: str) -> str:
    answer = Answer("opau-0", {"y": tensor(array, datatype)})
    return ResponseChecker(lambda content: answer, [request]).check(request, array.tobytes())[0]


@pytest.mark.parametrize(("datatype", "digits"), [("FP64", 1e-8), ("FP32", 2.4e-4), ("FP16", 2.2e-2), ("BF16", 6.2e-2)])
def test_half_of_the_digits_of_the_largest_value(datatype: str, digits: float) -> None:
    values = np.array([[0.001, -8.0], [2.0, 0.0]])
    request = request_for(values.astype(NAMES[datatype]), datatype)
    assert request.expected["y"].limit[0, 0] == pytest.approx(8 * digits, rel=0.06)
    near, far = (values + share * 8 * digits * np.array([[1.0, 0.0], [0.0, 0.0]]) for share in (0.8, 1.2))
    assert verdict(request, near.astype(NAMES[datatype]), datatype) == RIGHT
    assert verdict(request, far.astype(NAMES[datatype]), datatype) == WRONG


def test_whole_numbers_are_exact_and_truth_values_too() -> None:
    assert verdict(request_for(np.array([5, 10**9]), "INT64"), np.array([5, 10**9 + 1]), "INT64") == WRONG
    loose = Tolerance(rtol=1.0, atol=1.0)
    assert verdict(request_for(np.array([5]), "INT64", loose), np.array([6]), "INT64") == WRONG
    assert verdict(request_for(np.array([True]), "BOOL"), np.array([False]), "BOOL") == WRONG


def test_the_users_tolerance() -> None:
    want = np.array([1.0, 100.0, 0.0], np.float32)
    relative = request_for(want, "FP32", Tolerance(rtol=0.1))
    assert verdict(relative, np.array([1.05, 109.0, 0.0], np.float32), "FP32") == RIGHT
    assert verdict(relative, np.array([1.0, 100.0, 0.001], np.float32), "FP32") == WRONG
    absolute = request_for(want, "FP32", Tolerance(atol=0.5))
    assert verdict(absolute, want + np.float32(0.4), "FP32") == RIGHT
    assert verdict(absolute, want + np.float32(0.6), "FP32") == WRONG


def test_nan_and_infinity_are_data() -> None:
    want = np.array([np.nan, np.inf, -np.inf, 1.0, 1e30], np.float32)
    request = request_for(want, "FP32")
    assert verdict(request, want.copy(), "FP32") == RIGHT
    nudged = want.copy()
    nudged[3] = np.nextafter(np.float32(1), np.float32(2))
    assert verdict(request, nudged, "FP32") == RIGHT
    for i, other in ((0, 0.0), (1, 3e38), (1, -np.inf), (3, np.nan), (4, np.inf)):
        wrong = want.copy()
        wrong[i] = other
        assert verdict(request, wrong, "FP32") == WRONG, (i, other)


def test_no_rows_and_no_axes() -> None:
    assert verdict(request_for(np.zeros((0, 3), np.float32), "FP32"), np.zeros((0, 3), np.float32), "FP32") == RIGHT
    one = expectations([{"y": tensor(np.float32(2.0).reshape(()), "FP32")}], Tolerance())[0]
    request = Request(0, "opau-0", 1, b"", one)
    assert verdict(request, np.float32(2.0).reshape(()), "FP32") == RIGHT
    assert verdict(request, np.float32(3.0).reshape(()), "FP32") == WRONG
    assert lookalikes([request, request]) == 2


def test_what_was_found_right_is_known_by_its_bytes() -> None:
    request = request_for(np.array([1.0], np.float32), "FP32")
    reads = 0

    def read(content: Any) -> Answer:
        nonlocal reads
        reads += 1
        return Answer("", {"y": Tensor("FP32", (1,), content)})

    checker = ResponseChecker(read, [request])
    contents = [np.float32(1 + i * 2.0**-22).tobytes() for i in range(REMEMBERED + 3)]
    assert [checker.check(request, content) for content in contents] == [(RIGHT, "")] * len(contents)
    assert len(request.known) == REMEMBERED
    before = reads
    assert checker.check(request, contents[-1]) == (RIGHT, "")
    assert reads == before
    assert checker.check(request, np.float32(2).tobytes())[0] == WRONG
    assert checker.check(request, np.float32(2).tobytes())[0] == WRONG


def test_lookalikes() -> None:
    def pool(*rows: list[float]) -> list[Request]:
        answers = [{"y": tensor(np.array([row], np.float32), "FP32"), "n": tensor(np.array([7]), "INT64")} for row in rows]
        return [Request(i, "", 1, b"", e) for i, e in enumerate(expectations(answers, Tolerance()))]

    assert lookalikes(pool([1.0, 2.0], [2.0, 1.0], [1.0, 3.0])) == 0
    assert lookalikes(pool([1.0, 2.0], [2.0, 1.0], [1.0, 2.00001])) == 2
    assert lookalikes(pool([0.0] * 3000, [0.0] * 3000, [0.0] * 2999 + [1.0], [1.0])) == 2


def test_other_shapes_and_datatypes_are_wrong() -> None:
    request = request_for(np.ones((2, 3), np.float32), "FP32")
    checker = ResponseChecker(lambda content: content, [request])
    for array, datatype in ((np.ones((3, 2), np.float32), "FP32"), (np.ones((2, 3)), "FP64")):
        kind, reason = checker.check(request, Answer("", {"y": tensor(array, datatype)}))
        assert kind == WRONG
        assert "expected FP32 [2, 3]" in reason
    kind, reason = checker.check(request, Answer("", {"y": Tensor("FP32", (2, 3), b"1234")}))
    assert (kind, reason) == (WRONG, "4 bytes for FP32 of shape [2, 3]")


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
def test_answers_that_are_none(text: bytes, behind: bytes, length: bytes | None, said: str) -> None:
    with pytest.raises(BadAnswerError, match=said):
        wire.read(wire.Content(b"%d" % len(text) if behind else length, text + behind))


def test_an_error_in_an_answer_of_success() -> None:
    with pytest.raises(StatusError, match="HTTP 200: broken"):
        wire.read(wire.Content(None, b'{"error": "broken"}'))


@pytest.mark.parametrize(
    "described", [None, [], [{"name": "x"}], [{"name": "x", "datatype": "BYTES", "shape": [1]}], "x"], ids=str
)
def test_metadata_that_cannot_be_loaded(described: Any) -> None:
    with pytest.raises(BadAnswerError):
        tensor_specs(described)
