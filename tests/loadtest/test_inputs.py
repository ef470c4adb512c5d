"""The pool of requests: shapes, row counts, random numbers, a user's data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opau_onnx.errors import LoadError
from opau_onnx.loadtest import LoadTestConfig, LoadTestError
from opau_onnx.loadtest import inputs as inputs_module
from opau_onnx.loadtest.inputs import make_request_pool
from opau_onnx.loadtest.responses import ServedModel
from opau_onnx.protocol.tensors import DATATYPES, TensorSpec


def model(*inputs: tuple[str, str, tuple[int, ...]]) -> ServedModel:
    return ServedModel("m", None, tuple(TensorSpec(*one) for one in inputs), (), {}, {})


IMAGES = model(("x", "FP32", (-1, 1, 28, 28)))


def test_random_numbers_of_every_datatype() -> None:
    served = model(*((name, name, (-1, 50)) for name in DATATYPES))
    request = make_request_pool(served, LoadTestConfig(pool=1, rows=(4, 4))).requests[0]
    for name, kind in DATATYPES.items():
        array = request.inputs[name]
        assert array.shape == (4, 50)
        assert array.dtype == kind.numpy
        assert len(np.unique(array.astype(np.float64))) > 1
    assert request.inputs["INT64"].min() >= 0
    assert request.inputs["UINT8"].max() > 100
    assert request.nbytes == sum(200 * kind.numpy.itemsize for kind in DATATYPES.values())


def test_row_counts_are_mixed_evenly() -> None:
    pool = make_request_pool(IMAGES, LoadTestConfig(rows=(1, 8), pool=64)).requests
    assert Counter(q.rows for q in pool) == dict.fromkeys(range(1, 9), 8)
    assert [q.rows for q in pool[:8]] != sorted(q.rows for q in pool[:8])
    assert all(q.inputs["x"].shape == (q.rows, 1, 28, 28) for q in pool)
    assert [q.number for q in pool] == list(range(64))


def test_the_seed_decides() -> None:
    one, same, other = (make_request_pool(IMAGES, LoadTestConfig(pool=3, seed=seed)).requests for seed in (5, 5, 6))
    assert all(np.array_equal(a.inputs["x"], b.inputs["x"]) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].inputs["x"], other[0].inputs["x"])
    assert not np.array_equal(one[0].inputs["x"], one[1].inputs["x"])


def test_the_pools_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "POOL_BYTES", 2**20)
    assert len(make_request_pool(IMAGES, LoadTestConfig()).requests) == 64
    assert len(make_request_pool(IMAGES, LoadTestConfig(clients=100)).requests) == 100
    assert len(make_request_pool(model(("x", "FP32", (-1, 2**14))), LoadTestConfig(rows=(1, 3))).requests) == 8
    assert len(make_request_pool(model(("x", "FP32", (-1, 2**20))), LoadTestConfig()).requests) == 1
    assert len(make_request_pool(model(("x", "FP32", (-1, 2**20))), LoadTestConfig(pool=3)).requests) == 3


def test_fixed_and_missing_axes() -> None:
    fixed = make_request_pool(model(("x", "FP32", (4, 3))), LoadTestConfig(pool=1)).requests[0]
    assert fixed.rows == 4
    scalar = make_request_pool(model(("x", "FP32", ())), LoadTestConfig(pool=1)).requests[0]
    assert (scalar.rows, scalar.inputs["x"].shape) == (1, ())
    both = make_request_pool(model(("x", "FP32", (-1, 3)), ("w", "FP32", (5,))), LoadTestConfig(pool=1, rows=(2, 2))).requests[
        0
    ]
    assert {name: x.shape for name, x in both.inputs.items()} == {"x": (2, 3), "w": (5,)}


OPEN = model(("x", "FP32", (-1, 3, -1, -1)), ("n", "INT64", (-1,)))


@pytest.mark.parametrize("shapes", [((2, 3, 8, 9), (2,)), {"x": (2, 3, 8, 9)}])
def test_open_axes(shapes: Any) -> None:
    request = make_request_pool(OPEN, LoadTestConfig(pool=1, input_shapes=shapes)).requests[0]
    assert (request.rows, request.inputs["x"].shape, request.inputs["n"].shape) == (2, (2, 3, 8, 9), (2,))
    request = make_request_pool(OPEN, LoadTestConfig(pool=1, input_shapes=shapes, rows=(5, 5))).requests[0]
    assert (request.rows, request.inputs["x"].shape, request.inputs["n"].shape) == (5, (5, 3, 8, 9), (5,))


@pytest.mark.parametrize(
    ("served", "settings", "said"),
    [
        (OPEN, {}, r"x: FP32 \[-1, 3, -1, -1\] has dynamic axes .*--input-shape, e.g. 1,3,16,16"),
        (OPEN, {"input_shapes": ((1, 3, 8, 8),)}, "1 input shapes are given; the model has 2 inputs: x, n"),
        (OPEN, {"input_shapes": {"z": (1,)}}, "given for 'z'; the model's inputs are x, n"),
        (IMAGES, {"input_shapes": ((1, 3, 28, 28),)}, r"\[1, 3, 28, 28\] does not fit"),
        (model(("x", "FP32", (1, 3))), {"rows": (1, 8)}, "1 to 8 rows are requested, but the model fixes"),
    ],
)
def test_what_does_not_fit(served: ServedModel, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadTestError, match=said):
        make_request_pool(served, LoadTestConfig(**settings))


def test_data(tmp_path: Path) -> None:
    samples = np.arange(10 * 784, dtype=np.float64).reshape(10, 1, 28, 28)
    np.savez(tmp_path / "s.npz", x=samples)
    pool = make_request_pool(IMAGES, LoadTestConfig(data=tmp_path / "s.npz", rows=(3, 3), pool=4))
    assert str(tmp_path / "s.npz") in pool.source
    firsts = [q.inputs["x"][:, 0, 0, 0] / 784 for q in pool.requests]
    assert [f.tolist() for f in firsts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1]]
    assert pool.requests[0].inputs["x"].dtype == np.float32


def test_data_that_does_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", x=np.zeros((5, 1, 20, 20), np.float32))
    np.savez(tmp_path / "words.npz", x=np.zeros((5, 1, 28, 28), np.complex64))
    with pytest.raises(LoadTestError, match="have shape"):
        make_request_pool(IMAGES, LoadTestConfig(data=tmp_path / "small.npz"))
    with pytest.raises(LoadTestError, match="holds complex64 for x"):
        make_request_pool(IMAGES, LoadTestConfig(data=tmp_path / "words.npz"))
    with pytest.raises(LoadError, match="there are no samples"):
        make_request_pool(IMAGES, LoadTestConfig(data=tmp_path / "none.npz"))


def test_fashion_mnist() -> None:
    pool = make_request_pool(IMAGES, LoadTestConfig(data="fashion-mnist", pool=2, rows=(2, 2)))
    assert "Fashion-MNIST" in pool.source
    assert pool.requests[1].inputs["x"].shape == (2, 1, 28, 28)
