"""CIFAR's own binary files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training.cifar import CIFAR, load_cifar

from opau_onnx.errors import LoadError


def record(*labels: int, first: int = 0) -> bytes:
    return bytes(labels) + ((np.arange(3072) + first) % 251).astype(np.uint8).tobytes()


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    for number, name in enumerate([f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]):
        (tmp_path / name).write_bytes(record(number, first=number) + record(9, first=number))
    return tmp_path


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    (tmp_path / "cifar-100-binary").mkdir()
    for name in ("train.bin", "test.bin"):
        (tmp_path / "cifar-100-binary" / name).write_bytes(record(3, 99) + record(19, 0, first=7))
    return tmp_path


def test_cifar10(cifar10: Path) -> None:
    images, labels = load_cifar("cifar-10", cifar10, "train")
    assert (images.dtype, images.shape) == (np.uint8, (10, 3, 32, 32))
    assert (labels.dtype, labels.tolist()) == (np.int64, [0, 9, 1, 9, 2, 9, 3, 9, 4, 9])
    # Red, green, blue, each in rows: the file's bytes in their order.
    assert images[2, 0, 0, :3].tolist() == [1, 2, 3]
    assert images[0, 0, 1, 0] == 32
    assert images[0, 1, 0, 0] == 1024 % 251
    assert load_cifar("cifar-10", cifar10, "test")[1].tolist() == [5, 9]


def test_cifar100_has_the_fine_labels_and_may_be_in_its_archives_folder(cifar100: Path) -> None:
    images, labels = load_cifar("cifar-100", cifar100, "test")
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [99, 0]
    assert images[1, 0, 0, 0] == 7
    assert np.array_equal(load_cifar("cifar-100", cifar100 / "cifar-100-binary", "test")[0], images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "0 bytes, no whole number of records of 3073", id="empty"),
        pytest.param(record(1) + record(2)[:-1], "6145 bytes, no whole number", id="truncated"),
        pytest.param(record(1) + b"\0", "3074 bytes, no whole number", id="trailing"),
        pytest.param(record(10), "the label 10; expected 0 to 9", id="label"),
        pytest.param(bytes(3073 * 10_001), "30733073 bytes; the published file has 30730000", id="too large"),
    ],
)
def test_damaged_files(cifar10: Path, content: bytes, message: str) -> None:
    path = cifar10 / "data_batch_3.bin"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message) as caught:
        load_cifar("cifar-10", cifar10, "train")
    assert str(path) in str(caught.value)
    assert "cifar-10-batches-bin of the binary version" in str(caught.value)


@pytest.mark.parametrize(("labels", "message"), [((20, 0), "the coarse label 20"), ((0, 100), "the label 100")])
def test_labels_of_cifar100(cifar100: Path, labels: tuple[int, int], message: str) -> None:
    (cifar100 / "cifar-100-binary" / "train.bin").write_bytes(record(*labels))
    with pytest.raises(LoadError, match=message):
        load_cifar("cifar-100", cifar100, "train")


def test_missing_files(cifar10: Path) -> None:
    (cifar10 / "data_batch_4.bin").unlink()
    with pytest.raises(LoadError, match=r"lacks data_batch_4\.bin; expected cifar-10-batches-bin"):
        load_cifar("cifar-10", cifar10, "test")
    (cifar10 / "data_batch_4.bin").mkdir()
    with pytest.raises(LoadError, match=r"lacks data_batch_4\.bin"):
        load_cifar("cifar-10", cifar10, "test")


def test_unknown_names(cifar10: Path) -> None:
    with pytest.raises(LoadError, match="unknown data set 'cifar-20'"):
        load_cifar("cifar-20", cifar10, "test")
    with pytest.raises(LoadError, match="unknown split 'valid'"):
        load_cifar("cifar-10", cifar10, "valid")  # type: ignore[arg-type]


def test_published_sizes() -> None:
    assert [(k.classes, k.published("train"), k.published("test")) for k in CIFAR.values()] == [
        (10, 50_000, 10_000), (100, 50_000, 10_000),
    ]  # fmt: skip
