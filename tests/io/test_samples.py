"""Reading real inputs: every kind of source, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opau_onnx.errors import LoadError
from opau_onnx.io import datasets
from opau_onnx.io.samples import Samples, read_samples

X, Y = np.arange(12.0, dtype=np.float32).reshape(3, 4), np.array([2, 0, 1])


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, b=X, a=X + 1, labels=Y)
    found = read_samples(path, ["a", "b"])
    assert [x[0, 0] for x in found.inputs] == [1.0, 0.0]
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, 1]
    assert len(found) == 3
    assert len(found.first(2)) == 2
    assert found.first(2).labels is not None


def test_one_input_takes_the_only_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=X, labels=Y)
    assert read_samples(tmp_path / "one.npz", ["input.1"]).inputs[0].shape == (3, 4)
    np.savez(tmp_path / "none.npz", images=X)
    assert read_samples(tmp_path / "none.npz", ["images"]).labels is None


def test_an_input_may_be_called_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", labels=X)
    found = read_samples(tmp_path / "s.npz", ["labels"])
    assert found.labels is None
    assert found.inputs[0].shape == (3, 4)


def test_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "labels.npy", Y)
    assert len(read_samples(tmp_path, ["x"])) == 3


def test_fashion_mnist_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "FOLDER", tmp_path)
    found = read_samples("fashion-mnist", ["images"], "train")
    assert found.inputs[0].shape == (1000, 1, 28, 28)
    assert "1,000" in found.source


@pytest.mark.parametrize(
    ("arrays", "names", "message"),
    [
        ({"a": X}, ["a", "b"], "no array for b; it holds a"),
        ({"a": X, "b": X[:2]}, ["a", "b"], "hold 2, 3 samples"),
        ({"a": X[:0]}, ["a"], "hold 0 samples"),
        ({"a": np.float32(1)}, ["a"], "hold 0 samples"),
        ({"a": X, "labels": X}, ["a"], "expected whole numbers"),
        ({"a": X, "labels": Y[:2]}, ["a"], "hold 2, 3 samples"),
        ({"a": np.array([object()])}, ["a"], "without pickled objects"),
    ],
)
def test_refused(arrays: dict[str, Any], names: list[str], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(LoadError, match=message):
        read_samples(tmp_path / "bad.npz", names)


def test_no_such_source(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there are no samples at"):
        read_samples(tmp_path / "missing.npz", ["x"])
    (tmp_path / "text.txt").write_text("no")
    with pytest.raises(LoadError, match=r"not a \.npz file"):
        read_samples(tmp_path / "text.txt", ["x"])
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(LoadError, match="cannot be read"):
        read_samples(tmp_path / "broken.npz", ["x"])
    with pytest.raises(LoadError, match="the model has 2"):
        read_samples("fashion-mnist", ["x", "y"])


def test_the_users_samples_serve_both_and_the_report_says_so() -> None:
    given = Samples((np.arange(10),), None, "mine.npz")
    assert given.calibration(4).inputs[0].tolist() == [0, 1, 2, 3]
    assert len(given.held_out(4)) == 10
    assert given.held_out(4).source == "mine.npz, of which the first 4 calibrated"
