"""What is done before a model serves: shapes, batch sizes, and whether rows may be batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from opau_onnx.errors import LoadError
from opau_onnx.serve.config import ModelSettings, check
from opau_onnx.serve.model import Prepared, prepare
from tests.serve import nets


def prepared(path: Path, **settings: Any) -> Prepared:
    return prepare("m", ModelSettings(path=str(path), **settings))


@pytest.mark.parametrize(("limit", "buckets"), [(None, (1, 2, 4, 8, 16, 32)), (1, (1,)), (6, (1, 2, 4, 6)), (0, ())])
def test_batch_sizes(tmp_path: Path, limit: int | None, buckets: tuple[int, ...]) -> None:
    assert prepared(nets.linear(tmp_path / "m.onnx"), max_batch_size=limit).buckets == buckets


def test_batch_sizes_that_were_asked_for(tmp_path: Path) -> None:
    path = nets.linear(tmp_path / "m.onnx")
    assert prepared(path, max_batch_size=12, buckets=(3, 5)).buckets == (3, 5, 12)
    with pytest.raises(LoadError, match="buckets has 16"):
        prepared(path, max_batch_size=12, buckets=(16,))


def test_a_first_axis_that_is_fixed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    path = nets.write(tmp_path / "m.onnx", nodes, [nets.value("x", [3, 5])], [nets.value("y", [3, 5])])
    found = prepared(path)
    assert found.max_batch_size == 0
    assert "first axis of x" in found.alone
    with pytest.raises(LoadError, match="first axis of x"):
        prepared(path, max_batch_size=4)


def test_rows_that_depend_on_each_other(tmp_path: Path) -> None:
    path = nets.mixing(tmp_path / "m.onnx")
    assert "over the rows of a batch" in prepared(path).alone
    with pytest.raises(LoadError, match=r"over the rows of a batch.*batch_check"):
        prepared(path, max_batch_size=4)
    assert prepared(path, max_batch_size=4, batch_check=False).max_batch_size == 4


def test_dynamic_quantization_is_not_batched(tmp_path: Path) -> None:
    """Its scale is computed over the whole batch, so a row's result would depend on its neighbours."""
    from onnxruntime.quantization import quantize_dynamic

    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"w": random.standard_normal((64, 8)).astype(np.float32)}
    path = nets.write(tmp_path / "m.onnx", nodes, [nets.value("x", ["b", 64])], [nets.value("y", ["b", 8])], weights)
    quantize_dynamic(path, tmp_path / "q.onnx")
    assert prepared(path).max_batch_size == 32
    assert "over the rows of a batch" in prepared(tmp_path / "q.onnx").alone


def test_open_axes_need_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = nets.pair(tmp_path / "m.onnx")
    prepared(path)
    assert "not warmed up" in caplog.text
    caplog.clear()
    prepared(path, input_shapes={"b": (1, 7)})
    assert "not warmed up" not in caplog.text
    for shapes, message in [({"c": (1, 2)}, "has 'c'; the model's inputs are a, b"), ({"a": (1, 3)}, "has .1, 3. for a")]:
        with pytest.raises(LoadError, match=message):
            prepared(path, input_shapes={"b": (1, 7), **shapes})


def test_inputs_whose_first_axes_are_not_the_same(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["a"], ["c"]), helper.make_node("Neg", ["b"], ["d"])]
    inputs = [nets.value("a", ["n", 2]), nets.value("b", ["m", 2])]
    path = nets.write(tmp_path / "m.onnx", nodes, inputs, [nets.value("c", ["n", 2]), nets.value("d", ["m", 2])])
    assert "different names: m, n" in prepared(path).alone


def test_strings_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tensor\(string\)"):
        prepared(nets.identity(tmp_path / "m.onnx", onnx.TensorProto.STRING))


def test_weights_in_other_files(tmp_path: Path) -> None:
    path = nets.slow(tmp_path / "m.onnx", 64)
    onnx.save(onnx.load(path), tmp_path / "external.onnx", save_as_external_data=True, size_threshold=0)
    x = np.random.default_rng(0).standard_normal((1, 400, 4)).astype(np.float32)
    (runner, *_) = prepared(tmp_path / "external.onnx").runners
    np.testing.assert_allclose(runner.run({"x": x})["y"], x, rtol=1e-5)


def test_instances_have_a_limit() -> None:
    with pytest.raises(LoadError, match="instances"):
        check({"models": {"m": {"path": "m.onnx", "instances": 100_000}}})
