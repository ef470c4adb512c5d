"""The idx reader, the shipped sample and the preprocessing."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opau_onnx.errors import LoadError
from opau_onnx.io import datasets

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALLED = all((datasets.FOLDER / name).is_file() for names in datasets.FILES.values() for name in names)
needs_data = pytest.mark.skipif(not INSTALLED, reason="Debian's dataset-fashion-mnist is not installed")


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def write_folder(folder: Path, count: int = 4) -> Path:
    for names, start in zip(datasets.FILES.values(), (0, 100), strict=True):
        images = (np.arange(count * 784) + start).astype(np.uint8).reshape(count, 28, 28)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in zip(names, (images, labels), strict=True):
            (folder / name).write_bytes(gzip.compress(idx(array)))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


@pytest.fixture(scope="module")
def make_sample():
    spec = importlib.util.spec_from_file_location("make_sample", REPOSITORY / "scripts" / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reads_each_split(folder: Path) -> None:
    for split, start in (("train", 0), ("test", 100)):
        images, labels = datasets.load_fashion_mnist(folder, split)
        assert images.dtype == np.uint8
        assert images.shape == (4, 28, 28)
        assert images.reshape(-1)[:3].tolist() == [start, start + 1, start + 2]
        assert labels.dtype == np.int64
        assert labels.tolist() == [0, 1, 2, 3]


IMAGES = idx(np.zeros((4, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param(b"not gzip", "cannot be read as a gzip file", id="not gzip"),
        pytest.param(gzip.compress(IMAGES)[:-9], "cannot be read as a gzip file", id="truncated gzip"),
        pytest.param(gzip.compress(b""), "starts with nothing", id="empty"),
        pytest.param(gzip.compress(b"\0\0\x0d\x03" + IMAGES[4:]), "starts with 00000d03", id="floats"),
        pytest.param(gzip.compress(b"\0\0\x08\x01" + IMAGES[4:]), "starts with 00000801", id="wrong rank"),
        pytest.param(gzip.compress(IMAGES[:10]), "ends within its header", id="truncated header"),
        pytest.param(gzip.compress(IMAGES[:-1]), "3135 bytes of data; its header says", id="truncated data"),
        pytest.param(gzip.compress(IMAGES + b"\0"), "more than 3136 bytes of data; its header says", id="trailing data"),
    ],
)
def test_damaged_file(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / datasets.FILES["test"][0]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=message) as caught:
        datasets.load_fashion_mnist(folder, "test")
    assert str(path) in str(caught.value)
    assert "apt-get install dataset-fashion-mnist" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.zeros(3, np.uint8), r"expected \(N, 28, 28\) and \(N,\)"), (np.full(4, 10, np.uint8), "label 10")],
)
def test_labels_that_do_not_fit(folder: Path, labels: np.ndarray, message: str) -> None:
    (folder / datasets.FILES["train"][1]).write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(LoadError, match=message):
        datasets.load_fashion_mnist(folder, "train")


def test_images_of_another_size(folder: Path) -> None:
    (folder / datasets.FILES["train"][0]).write_bytes(gzip.compress(idx(np.zeros((4, 32, 32), np.uint8))))
    with pytest.raises(LoadError, match=r"\(4, 32, 32\)"):
        datasets.load_fashion_mnist(folder, "train")


def test_files_that_are_not_gzipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = datasets.load_fashion_mnist(folder, "test")
    for path in [folder / name for names in datasets.FILES.values() for name in names]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    after = datasets.load_fashion_mnist(folder, "test")
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    monkeypatch.setenv(datasets.VARIABLE, str(folder))
    assert datasets.find_fashion_mnist() == folder
    path = folder / datasets.FILES["test"][0]
    path.with_suffix("").write_bytes(IMAGES[:-1])
    with pytest.raises(LoadError, match="holds 3135 bytes of data"):
        datasets.load_fashion_mnist(folder, "test")


def test_mnist_has_the_same_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert datasets.load_mnist(folder, "train")[0].shape == (4, 28, 28)
    with pytest.raises(LoadError, match="a folder with MNIST's four idx files"):
        datasets.load_mnist(tmp_path_factory.mktemp("empty"), "train")
    with pytest.raises(LoadError, match="unknown split 'valid'"):
        datasets.load_mnist(folder, "valid")  # type: ignore[arg-type]


def test_a_header_cannot_ask_for_any_amount_of_memory(folder: Path) -> None:
    huge = bytes((0, 0, 8, 3)) + b"\xff" * 12
    (folder / datasets.FILES["test"][0]).write_bytes(gzip.compress(huge))
    with pytest.raises(LoadError, match="expected at most 1073741824"):
        datasets.load_fashion_mnist(folder, "test")


def test_unknown_split(folder: Path) -> None:
    with pytest.raises(LoadError, match="unknown split 'valid'"):
        datasets.load_fashion_mnist(folder, "valid")  # type: ignore[arg-type]


def test_find(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv(datasets.VARIABLE, str(folder))
    assert datasets.find_fashion_mnist() == folder
    assert len(datasets.load_fashion_mnist(None, "test")[0]) == 4
    monkeypatch.setenv(datasets.VARIABLE, str(empty))
    with pytest.raises(LoadError, match="t10k-images-idx3-ubyte"):
        datasets.find_fashion_mnist()
    monkeypatch.delenv(datasets.VARIABLE)
    monkeypatch.setattr(datasets, "FOLDER", empty)
    assert datasets.find_fashion_mnist() is None
    with pytest.raises(LoadError, match="apt-get install dataset-fashion-mnist"):
        datasets.load_fashion_mnist(None, "test")


def test_preprocess_values() -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 2, 3], images[1, 4, 5] = 255, 73
    result = datasets.preprocess(images)
    assert result.dtype == np.float32
    assert result.shape == (2, 1, 28, 28)
    assert result[0].max() == np.float32(-0.2860 / 0.3530)
    assert result[1, 0, 2, 3] == np.float32((1 - 0.2860) / 0.3530)
    assert result[1, 0, 4, 5] == np.float32((73 / 255 - 0.2860) / 0.3530)


def test_preprocess_of_nothing() -> None:
    assert datasets.preprocess(np.zeros((0, 28, 28), np.uint8)).shape == (0, 1, 28, 28)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 28, 28), np.float32), np.zeros((28, 28), np.uint8), np.zeros((2, 32, 32), np.uint8)]
)
def test_preprocess_refuses(images: np.ndarray) -> None:
    with pytest.raises(LoadError, match=r"expected uint8 of shape \(N, 28, 28\)"):
        datasets.preprocess(images)


def test_sample() -> None:
    images, labels = datasets.load_sample()
    assert images.dtype == np.uint8
    assert images.shape == (1000, 28, 28)
    assert labels.dtype == np.int64
    assert np.bincount(labels, minlength=10).tolist() == [100] * 10
    assert len(np.unique(images.reshape(1000, -1), axis=0)) == 1000
    assert len(datasets.CLASSES) == 10


def test_sample_is_small_and_licensed() -> None:
    assert (REPOSITORY / "models" / datasets.SAMPLE).stat().st_size < 600_000
    licence = (REPOSITORY / "models" / "fashion_mnist_sample.LICENSE").read_text()
    assert "The MIT License" in licence
    assert "Zalando SE" in licence


def test_data_needs_no_torch() -> None:
    code = "import sys; from opau_onnx.io import datasets; datasets.preprocess(datasets.load_sample()[0])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sample_rule(make_sample) -> None:
    labels = np.tile(np.arange(10), 250)[::-1]
    chosen = make_sample.choose(labels)
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == list(range(1000))


def test_sample_has_the_same_bytes_at_every_run(make_sample, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        make_sample.write_npz(tmp_path / name, images=np.arange(100, dtype=np.uint8), labels=np.arange(3))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as content:
        assert content["images"].tolist() == list(range(100))


@needs_data
def test_sample_comes_from_the_test_set(make_sample) -> None:
    images, labels = datasets.load_fashion_mnist(datasets.FOLDER, "test")
    chosen = make_sample.choose(labels)
    with np.load(REPOSITORY / "models" / datasets.SAMPLE) as content:
        assert np.array_equal(content["indices"], chosen)
        assert np.array_equal(content["images"], images[chosen])
        assert np.array_equal(content["labels"], labels[chosen])


@needs_data
def test_constants_come_from_the_training_images() -> None:
    images, labels = datasets.load_fashion_mnist(datasets.FOLDER, "train")
    assert images.shape == (60000, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10
    mean, std = datasets.pixel_statistics(images)
    assert (round(mean, 4), round(std, 4)) == (datasets.MEAN, datasets.STD)
