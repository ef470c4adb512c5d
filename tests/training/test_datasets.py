"""Data sets in memory, and the pixels that networks get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training import TrainingError
from training.datasets import DATASETS, read_data
from training.pixels import Augmentation, Pixels, Shape, shape_for

from opau_onnx.errors import LoadError
from opau_onnx.io import datasets

from .conftest import idx

CIFAR_SHAPES = [("cifar-10", 60, 10), ("cifar-100", 12, 100)]


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_grey_sets(name: str, idx_folder: Path) -> None:
    found = read_data(name, idx_folder)
    assert (found.train.images.dtype, found.train.images.shape) == (torch.uint8, (64, 1, 28, 28))
    assert found.train.labels.dtype == torch.int64
    assert set(found.description["sha256"]) == {n.removesuffix(".gz") for names in datasets.FILES.values() for n in names}
    assert len(found.notes) == 2
    assert "64 train images were read; the published set has 60,000" in found.notes[0]
    assert not torch.equal(found.train.images, found.test.images)


@pytest.mark.parametrize(("name", "count", "classes"), CIFAR_SHAPES)
def test_cifar(name: str, count: int, classes: int, cifar_folder: Path) -> None:
    found = read_data(name, cifar_folder)
    assert found.train.images.shape == (count, 3, 32, 32)
    assert found.kind.classes == classes
    assert found.description["training_images"] == count
    assert all(len(v) == 64 for v in found.description["sha256"].values())


def test_limit(cifar_folder: Path) -> None:
    found = read_data("cifar-10", cifar_folder, limit=7)
    assert (len(found.train), len(found.test)) == (7, 7)
    assert (found.train.steps(3), found.train.steps(7), found.train.steps(8)) == (3, 1, 1)
    assert found.description["training_images"] == 7


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("imagenet", None, "unknown data set 'imagenet'; expected one of fashion-mnist, mnist, cifar-10"),
        ("mnist", None, "pass the folder of its files with --data"),
        ("cifar-10", None, "CIFAR-10 is nowhere by itself"),
        ("cifar-100", Path("nowhere"), r"nowhere lacks train\.bin, test\.bin"),
    ],
)
def test_refused(name: str, folder: Path | None, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read_data(name, folder)


def test_no_images(idx_folder: Path, tmp_path: Path) -> None:
    for names in datasets.FILES.values():
        for name, shape in zip(names, ((0, 28, 28), (0,)), strict=True):
            (tmp_path / name).with_suffix("").write_bytes(idx(np.zeros(shape, np.uint8)))
    with pytest.raises(LoadError, match="hold no images; expected 60,000"):
        read_data("mnist", tmp_path)


def test_pixels_of_lenet_are_the_shipped_models_own(idx_folder: Path) -> None:
    found = read_data("fashion-mnist", idx_folder)
    pixels = Pixels(found.kind, shape_for("lenet", found.kind))
    assert np.array_equal(pixels(found.train.images).numpy(), datasets.preprocess(found.train.images[:, 0].numpy()))
    assert str(pixels) == datasets.PREPROCESSING


def test_grey_images_for_networks_that_take_colours(idx_folder: Path) -> None:
    found = read_data("fashion-mnist", idx_folder)
    pixels = Pixels(found.kind, shape_for("preact_resnet18", found.kind))
    x, inner = pixels(found.train.images), datasets.preprocess(found.train.images[:, 0].numpy())[:, 0]
    assert x.shape == (64, 3, 32, 32)
    assert x.is_contiguous()
    for channel in range(3):
        assert np.array_equal(x[:, channel, 2:30, 2:30].numpy(), inner)
    border = x.clone()
    border[:, :, 2:30, 2:30] = x[0, 0, 0, 0]
    assert (border == np.float32((0 - datasets.MEAN) / datasets.STD)).all()
    assert "shape (N, 3, 32, 32); the image in a black frame of 2 pixels; 3 equal channels" in str(pixels)


@pytest.mark.parametrize(("name", "count", "classes"), CIFAR_SHAPES)
def test_colours_have_their_own_mean_and_deviation(name: str, count: int, classes: int, cifar_folder: Path) -> None:
    found = read_data(name, cifar_folder)
    for architecture in ("lenet", "preact_resnet18"):
        pixels = Pixels(found.kind, shape_for(architecture, found.kind))
        x = pixels(found.test.images).double()
        kind = found.kind
        for channel in range(3):
            expected = (found.test.images[:, channel].double() / 255 - kind.mean[channel]) / kind.std[channel]
            assert (x[:, channel] - expected).abs().max() < 1e-6
    assert "(0.4914, 0.4822, 0.4465)" in str(Pixels(DATASETS["cifar-10"], Shape(3, 32)))


@pytest.mark.parametrize(("name", "shape"), [("cifar-10", Shape(1, 32)), ("cifar-10", Shape(3, 28)), ("mnist", Shape(1, 31))])
def test_images_that_do_not_fit(name: str, shape: Shape) -> None:
    with pytest.raises(TrainingError, match="the network takes"):
        Pixels(DATASETS[name], shape)


def numbered(count: int, size: int = 6) -> torch.Tensor:
    return torch.arange(1, count * 3 * size * size + 1, dtype=torch.int16).reshape(count, 3, size, size)


def test_mirror() -> None:
    images = numbered(50)
    out = Augmentation(True, 0)(images, torch.Generator().manual_seed(0))
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(out, images, strict=True)]
    assert 10 < sum(flipped) < 40
    assert all(f or torch.equal(a, b) for f, a, b in zip(flipped, out, images, strict=True))


def test_crop() -> None:
    images = numbered(80)
    out = Augmentation(False, 2)(images, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(images, [2] * 4)
    corners = set()
    for piece, whole in zip(out, framed, strict=True):
        found = [(r, c) for r in range(5) for c in range(5) if torch.equal(piece, whole[:, r : r + 6, c : c + 6])]
        assert len(found) == 1
        corners |= set(found)
    assert {r for r, _ in corners} == {c for _, c in corners} == set(range(5))


@pytest.mark.parametrize(
    ("augmentation", "text"),
    [
        (Augmentation(True, 0), "horizontal flip of each image with probability 1/2"),
        (Augmentation(False, 0), "none"),
        (Augmentation(False, 4), "each image cut at random out of a black frame of 4 pixels around it"),
    ],
)
def test_augmentation_in_words(augmentation: Augmentation, text: str) -> None:
    assert str(augmentation) == text
    images = numbered(3)
    assert str(augmentation) != "none" or torch.equal(augmentation(images, torch.Generator()), images)
