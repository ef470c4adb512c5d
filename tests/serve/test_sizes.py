"""Sizes that a file declares dynamic and cannot run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from opau_onnx.protocol.tensors import Array, TensorSpec
from opau_onnx.serve import sizes
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.model import Prepared, prepare
from tests.serve import nets
from tests.serve.conftest import Running
from tests.serve.http_client import call


def prepared(path: Path, **settings: Any) -> Prepared:
    return prepare("m", ModelSettings(path=str(path), **settings))


def even_only(path: Path) -> Path:
    """Halves of a row, added: a Reshape that a tracer left behind takes even widths only."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["halves"]), helper.make_node("ReduceSum", ["halves", "axes"], ["y"])]
    weights = {"shape": np.array([0, 2, -1]), "axes": np.array([1])}
    return nets.write(path, nodes, [nets.value("x", ["b", "width"])], [nets.value("y", ["b", 1, "half"])], weights)


def test_sizes_that_fail_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = prepared(even_only(tmp_path / "m.onnx"))
    assert "width 1; width 3; width 5; width 7; width 9" in found.warning
    assert found.warning in caplog.text
    assert found.max_batch_size == 32  # it serves
    assert "width 11" in prepared(tmp_path / "m.onnx", input_shapes={"x": (1, 12)}).warning


def test_a_file_that_holds_for_all_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert prepared(nets.pair(tmp_path / "m.onnx")).warning == ""
    assert prepared(nets.linear(tmp_path / "l.onnx")).warning == ""
    assert "cannot run" not in caplog.text


def test_a_file_that_runs_at_no_size_that_was_tried(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    weights = {"w": np.ones(7, np.float32)}
    path = nets.write(tmp_path / "m.onnx", nodes, [nets.value("x", ["b", "n"])], [nets.value("y", ["b", "n"])], weights)
    assert "give input_shapes" in prepared(path).warning
    found = prepared(path, input_shapes={"x": (1, 7)})
    assert "n 6" in found.warning
    assert "n 1;" not in found.warning  # which is broadcast


class Fussy:
    """Runs where its rule is met, and remembers the shapes."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.shapes = rule, list[tuple[tuple[int, ...], ...]]()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.shapes.append(tuple(array.shape for array in inputs.values()))
        if not self.rule(*self.shapes[-1]):
            raise ValueError("not these")
        return inputs


A, B = TensorSpec("a", "FP32", (-1, -1, -1)), TensorSpec("b", "INT64", (-1, -1))


def test_axes_of_one_name_have_one_size() -> None:
    runner = Fussy(lambda a, b: a[2] == b[1])
    found = sizes.try_sizes(runner, (A, B), {"a": {1: "h", 2: "w"}, "b": {1: "w"}}, {"a": (1, 4, 6), "b": (1, 6)})
    assert found == sizes.Sizes((), found.tried, complete=True)
    assert {(1, 4, 7), (1, 5, 6), (1, 5, 7), (1, 8, 12)} <= {a for a, _ in runner.shapes}
    assert all(a[0] == 1 for a, _ in runner.shapes)


def test_all_together_may_fail_where_each_alone_does_not() -> None:
    runner = Fussy(lambda a, b: a[1] * a[2] < 40)
    found = sizes.try_sizes(runner, (A, B), {"a": {1: "h", 2: "w"}}, {"a": (1, 4, 4), "b": (1, 6)})
    assert found.failed == ("h 8, w 8",)


def test_it_ends_after_a_time_or_when_stopped() -> None:
    seconds = iter(range(0, 1000, 2))
    found = sizes.try_sizes(Fussy(lambda a: False), (B,), {"b": {1: "n"}}, {"b": (1, 64)}, clock=lambda: float(next(seconds)))
    assert (found.tried, found.complete) == (2, False)
    stop = threading.Event()
    stop.set()
    assert sizes.try_sizes(Fussy(lambda a: True), (B,), {"b": {1: "n"}}, {"b": (1, 64)}, stop).tried == 0


def test_sizes_of_very_large_inputs_are_left_out() -> None:
    runner = Fussy(lambda a: True)
    sizes.try_sizes(runner, (B,), {"b": {1: "n"}}, {"b": (1, sizes.LARGEST)})
    assert (1, 2 * sizes.LARGEST) not in {shapes[0] for shapes in runner.shapes}


def test_clients_are_told(running: Running, tmp_path: Path) -> None:
    server = running({"even": even_only(tmp_path / "m.onnx")}, grpc_port=-1)
    assert "width 9" in call(server, "GET", "/v2/models/even")[1]["parameters"]["warning"]
    (entry,) = call(server, "POST", "/v2/repository/index")[1]
    assert (entry["state"], "width 9" in entry["reason"]) == ("READY", True)
