"""Fashion-MNIST (Zalando SE, MIT licence) and MNIST: their files, the shipped sample, and the shipped models' preprocessing.

Every shipped model takes what :func:`preprocess` gives. Needs numpy alone. For CIFAR see scripts/training/cifar.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from opau_onnx.errors import LoadError
from opau_onnx.io.idx import read_idx

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's ``dataset-fashion-mnist`` puts the files."""
VARIABLE = "OPAU_FASHION_MNIST"
"""Environment variable that names another folder."""
FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Split -> (images, labels)."""
SAMPLE = "fashion_mnist_sample.npz"
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""Label -> name, as the data set's authors have them."""

MEAN, STD = 0.2860, 0.3530
"""Mean and standard deviation of all pixels of the 60,000 training images, scaled to [0, 1], to four places
(:func:`pixel_statistics` gives 0.286041 and 0.353024)."""
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""The same for MNIST, as they are customary."""
Statistic = float | tuple[float, ...]


def describe_preprocessing(mean: Statistic, std: Statistic, shape: Sequence[int], frame: str = "") -> str:
    """Preprocessing in words, for cards: numbers or one for each channel, the shape of an image, what else."""
    sizes = ", ".join(map(str, shape))
    return f"(pixel / 255 - {mean}) / {std} in float64, rounded to float32; shape (N, {sizes}){frame}"


PREPROCESSING = describe_preprocessing(MEAN, STD, (1, 28, 28))
"""Preprocessing of :func:`preprocess`, in words."""

_HINT = f"install it with `apt-get install dataset-fashion-mnist`, or pass a folder or set {VARIABLE} to one"
_MNIST_HINT = "expected a folder with MNIST's four idx files, gzipped or not"


def find_fashion_mnist() -> Path | None:
    """The folder that holds all four files: that of the environment variable if it is set, else Debian's.

    Returns:
        None where the variable is not set and Debian's package is not installed.

    Raises:
        LoadError: the variable names a folder that lacks a file.
    """
    chosen = os.environ.get(VARIABLE)
    folder = Path(chosen) if chosen else FOLDER
    missing = [name for names in FILES.values() for name in names if not _gzipped_or_not(folder / name).is_file()]
    if not missing:
        return folder
    if chosen:
        raise LoadError(f"{VARIABLE} is {chosen}, where {', '.join(missing)} cannot be found; {_HINT}")
    return None


def load_fashion_mnist(folder: Path | None, split: Split) -> tuple[Images, Labels]:
    """One split of the data set.

    Args:
        folder: where its idx files are; None for what :func:`find_fashion_mnist` finds.
        split: "train" (60,000 images) or "test" (10,000).

    Returns:
        images, uint8 (N, 28, 28); labels, int64 (N,), from 0 to 9.

    Raises:
        LoadError: no such file, or one that is damaged or holds something else.
    """
    _check_split(split)
    folder = find_fashion_mnist() if folder is None else Path(folder)
    if folder is None:
        raise LoadError(f"Fashion-MNIST is not in {FOLDER}; {_HINT}")
    return _load(folder, split, _HINT)


def load_mnist(folder: Path, split: Split) -> tuple[Images, Labels]:
    """One split of MNIST (LeCun, Cortes, Burges), whose files are named as those of Fashion-MNIST; result as there.

    Raises:
        LoadError: no such file, or one that is damaged or holds something else.
    """
    _check_split(split)
    return _load(Path(folder), split, _MNIST_HINT)


def idx_paths(folder: Path, split: Split) -> tuple[Path, Path]:
    """The files of images and labels in a folder: gzipped, or as they are where only those exist."""
    first, last = (folder / name for name in FILES[split])
    return _gzipped_or_not(first), _gzipped_or_not(last)


def _gzipped_or_not(path: Path) -> Path:
    plain = path.with_suffix("")
    return plain if plain.is_file() and not path.is_file() else path


def _check_split(split: str) -> None:
    if split not in FILES:
        raise LoadError(f"unknown split {split!r}; expected one of {', '.join(FILES)}")


def _load(folder: Path, split: Split, hint: str) -> tuple[Images, Labels]:
    images_path, labels_path = idx_paths(folder, split)
    images, labels = read_idx(images_path, 3, hint), read_idx(labels_path, 1, hint)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise LoadError(
            f"{images_path} has shape {images.shape}, {labels_path.name} {labels.shape}; expected (N, 28, 28) and (N,)"
        )
    if labels.size and labels.max() >= len(CLASSES):
        raise LoadError(f"{labels_path} holds the label {labels.max()}; expected 0 to {len(CLASSES) - 1}")
    return images, labels.astype(np.int64)


def load_sample() -> tuple[Images, Labels]:
    """The shipped sample of the test set: 1,000 images, 100 of each class (see scripts/make_sample.py).

    Returns:
        images, uint8 (1000, 28, 28); labels, int64 (1000,).

    Raises:
        LoadError: the installation lacks the file.
    """
    file = resources.files("opau_onnx.models") / SAMPLE
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return content["images"], content["labels"].astype(np.int64)
    except FileNotFoundError:
        raise LoadError(f"this installation of opau_onnx lacks models/{SAMPLE}; install it again") from None


def preprocess(images: Images) -> npt.NDArray[np.float32]:
    """Preprocess images for the models: ``(images / 255 - MEAN) / STD``.

    Args:
        images: uint8, (N, 28, 28), 0 for the background.

    Returns:
        float32, (N, 1, 28, 28). Computed in float64 and rounded once, so the same on every machine.

    Raises:
        LoadError: another dtype or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise LoadError(f"images are {images.dtype} of shape {images.shape}; expected uint8 of shape (N, 28, 28)")
    return np.asarray(levels(MEAN, STD)[images][:, np.newaxis])


def levels(mean: float, std: float) -> npt.NDArray[np.float32]:
    """The 256 pixel values preprocessed, float32 (256,): ``(value / 255 - mean) / std`` in float64, rounded once."""
    return ((np.arange(256) / 255 - mean) / std).astype(np.float32)


def pixel_statistics(images: Images) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, scaled to [0, 1]; where MEAN and STD come from."""
    share = np.bincount(images.reshape(-1), minlength=256) / images.size
    level = np.arange(256) / 255
    mean = float(share @ level)
    return mean, float(share @ (level - mean) ** 2) ** 0.5
