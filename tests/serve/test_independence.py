"""Requests share a batch only where a row's result does not depend on the other rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from opau_onnx.deploy.options import Options
from opau_onnx.deploy.triton import deploy_triton
from opau_onnx.errors import DeployError
from opau_onnx.graph.rows import over_rows
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.model import Prepared, prepare
from tests.serve import nets
from tests.serve.conftest import Running
from tests.serve.http_client import call, simple
from tests.serve.row_models import DEPENDENT, INDEPENDENT, TABLE


def prepared(path: Path, **settings: Any) -> Prepared:
    return prepare("m", ModelSettings(path=str(path), **settings))


def test_there_are_as_many_models_as_promised() -> None:
    assert min(len(DEPENDENT), len(INDEPENDENT)) >= 30


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_each_other_are_not_batched(name: str, tmp_path: Path) -> None:
    found = prepared(DEPENDENT[name](tmp_path / "m.onnx"))
    assert found.max_batch_size == 0
    assert found.alone


def test_rows_that_do_not_are_batched(tmp_path: Path) -> None:
    alone = {name: prepared(make(tmp_path / "m.onnx")).alone for name, make in INDEPENDENT.items()}
    assert {name: reason for name, reason in alone.items() if reason} == {}


@pytest.mark.parametrize("name", ["ids: first row", "bools: first row", "reversed rows", "gram"])
def test_runs_show_what_the_graph_does_not(name: str, tmp_path: Path) -> None:
    path = DEPENDENT[name](tmp_path / "m.onnx")
    assert over_rows(onnx.load(path)) is None
    assert "depends on the other rows" in prepared(path).alone


def test_answers_of_many_clients_are_those_of_one(running: Running, tmp_path: Path) -> None:
    path = DEPENDENT["ids: mean"](tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(path)
    server = running({"m": {"path": path, "max_batch_delay_us": 20_000, "instances": 1}})
    ids = [[i, (7 * i + 3) % len(TABLE)] for i in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda x: call(server, "POST", "/v2/models/m/infer", simple(x, "INT64")), ids))
    for x, (status, answer, _) in zip(ids, answers, strict=True):
        assert status == 200
        (expected,) = session.run(None, {"x": np.array(x)})
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected.ravel(), rtol=1e-6)


def test_where_no_run_can_tell_requests_run_alone(tmp_path: Path) -> None:
    """Only index 0 is valid, so all rows are the same."""
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    inputs, outputs = [nets.value("x", ["batch"], TensorProto.INT64)], [nets.value("y", ["batch", 6])]
    path = nets.write(tmp_path / "m.onnx", nodes, inputs, outputs, {"table": TABLE[:1]})
    assert "no probe can tell" in prepared(path).alone
    assert prepared(path, batch_check=False).max_batch_size == 32


def test_open_axes_are_probed_too(tmp_path: Path) -> None:
    mean = helper.make_node("Gather", ["x", "first"], ["f"])
    nodes = [mean, helper.make_node("Sub", ["x", "f"], ["y"])]
    value = ["batch", "length"]
    path = nets.write(tmp_path / "m.onnx", nodes, [nets.value("x", value)], [nets.value("y", value)], {"first": np.array([0])})
    assert "depends on the other rows" in prepared(path).alone
    assert prepared(nets.pair(tmp_path / "p.onnx")).max_batch_size == 32


def test_open_axes_that_fit_no_size_tried(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weight = {"w": np.eye(5, dtype=np.float32)}
    inputs, outputs = [nets.value("x", ["batch", "length"])], [nets.value("y", ["batch", 5])]
    path = nets.write(tmp_path / "m.onnx", nodes, inputs, outputs, weight)
    assert "give input_shapes" in prepared(path).alone
    assert prepared(path, input_shapes={"x": (1, 5)}).max_batch_size == 32


@pytest.mark.parametrize("name", ["ids: mean", "bytes: largest", "ids: first row", "bools: first row"])
def test_triton_is_told_the_same(name: str, tmp_path: Path) -> None:
    path = DEPENDENT[name](tmp_path / "m.onnx")
    result = deploy_triton(path, tmp_path / "models")
    assert result.config.max_batch_size == 0
    assert any("requests are not batched" in note for note in result.notes)
    with pytest.raises(DeployError, match="no-batch-check"):
        deploy_triton(path, tmp_path / "models", Options(replace=True, max_batch_size=4))
