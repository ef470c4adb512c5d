"""The data sets by name, in memory: bytes as they are stored, and what cards say of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opau_onnx.errors import LoadError
from opau_onnx.io import datasets
from training import cifar

Loaded = tuple[datasets.Images, datasets.Labels]


@dataclass(frozen=True)
class Kind:
    """A data set.

    Attributes:
        title, source: for cards.
        classes, channels, size: numbers of classes and channels; height and width of its images.
        mean, std: of the training images' pixels, scaled to [0, 1]; one for each channel.
        mirrored: whether a mirrored image is still one of its class.
        published: split -> number of images.
        find: the folder that was asked for, or None -> the folder with the files.
        paths: that folder, split -> the files.
        load: that folder, split -> images, uint8 (N, channels, size, size), and labels, int64 (N,).
    """

    title: str
    source: str
    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrored: bool
    published: dict[datasets.Split, int]
    find: Callable[[Path | None], Path]
    paths: Callable[[Path, datasets.Split], tuple[Path, ...]]
    load: Callable[[Path, datasets.Split], Loaded]


def _grey(load: Callable[[Path, datasets.Split], Loaded]) -> Callable[[Path, datasets.Split], Loaded]:
    def with_a_channel(folder: Path, split: datasets.Split) -> Loaded:
        images, labels = load(folder, split)
        return images[:, np.newaxis], labels

    return with_a_channel


def _given(title: str, folder: Path | None) -> Path:
    if folder is None:
        raise LoadError(f"{title} is nowhere by itself; pass the folder of its files with --data")
    return folder


def _find_cifar(name: str, folder: Path | None) -> Path:
    return cifar.find_cifar(name, _given(cifar.CIFAR[name].title, folder))


def _cifar(name: str) -> Kind:
    kind = cifar.CIFAR[name]
    return Kind(
        kind.title, f"{cifar.SOURCE} (Krizhevsky, 2009)", kind.classes, 3, 32, kind.mean, kind.std, True,
        {split: kind.published(split) for split in kind.files}, partial(_find_cifar, name),
        lambda folder, split: tuple(folder / file for file in kind.files[split]), partial(cifar.load_cifar, name),
    )  # fmt: skip


DATASETS: dict[str, Kind] = {
    "fashion-mnist": Kind(
        "Fashion-MNIST", "https://github.com/zalandoresearch/fashion-mnist (Zalando SE, MIT licence)",
        len(datasets.CLASSES), 1, 28, (datasets.MEAN,), (datasets.STD,), True, {"train": 60_000, "test": 10_000},
        lambda folder: folder or datasets.find_fashion_mnist() or datasets.FOLDER,
        datasets.idx_paths, _grey(datasets.load_fashion_mnist),
    ),
    "mnist": Kind(
        "MNIST", "LeCun, Cortes, Burges", 10, 1, 28, (datasets.MNIST_MEAN,), (datasets.MNIST_STD,), False,
        {"train": 60_000, "test": 10_000}, partial(_given, "MNIST"), datasets.idx_paths, _grey(datasets.load_mnist),
    ),
    "cifar-10": _cifar("cifar-10"),
    "cifar-100": _cifar("cifar-100"),
}  # fmt: skip
"""Name -> data set."""


@dataclass(frozen=True)
class Split:
    """Images as they are stored, uint8 (N, channels, size, size), and labels, int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return math.ceil(len(self) / batch_size)

    def first(self, count: int) -> Split:
        """The first images, or all where there are fewer."""
        return Split(self.images[:count], self.labels[:count])

    def to(self, device: str) -> Split:
        """The same on a device: 180 MB for all of CIFAR."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """Both splits of a data set.

    Attributes:
        name: a key of :data:`DATASETS`.
        description: what the card says: the hashes tell which data it is, whatever the folder.
        notes: what a user should know: splits that are not as published.
    """

    name: str
    train: Split
    test: Split
    description: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> Kind:
        """Properties of the data set."""
        return DATASETS[self.name]

    def to(self, device: str) -> Data:
        """The same on a device."""
        return Data(self.name, self.train.to(device), self.test.to(device), self.description, self.notes)


def read_data(name: str, folder: Path | None, limit: int | None = None) -> Data:
    """Both splits of a data set.

    Args:
        name: a key of :data:`DATASETS`.
        folder: of its files; None only for Fashion-MNIST, where Debian's package is.
        limit: take no more than the first so many images of either split.

    Raises:
        LoadError: an unknown name, files that are missing, damaged or something else, or a split without images.
    """
    if name not in DATASETS:
        raise LoadError(f"unknown data set {name!r}; expected one of {', '.join(DATASETS)}")
    kind = DATASETS[name]
    place = kind.find(folder)
    splits = {split: _read_split(kind, place, split) for split in kind.published}
    notes = tuple(
        f"{kind.title}: {len(found):,} {split} images were read; the published set has {kind.published[split]:,}"
        for split, found in splits.items()
        if len(found) != kind.published[split]
    )
    train, test = (split.first(limit) if limit else split for split in (splits["train"], splits["test"]))
    description = {
        "name": kind.title,
        "source": kind.source,
        "sha256": {path.name: sha256(path) for split in kind.published for path in kind.paths(place, split)},
        "training_images": len(train),
        "test_images": len(test),
    }
    return Data(name, train, test, description, notes)


def _read_split(kind: Kind, folder: Path, split: datasets.Split) -> Split:
    images, labels = kind.load(folder, split)
    if not len(labels):
        raise LoadError(f"{', '.join(map(str, kind.paths(folder, split)))} hold no images; expected {kind.published[split]:,}")
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
