"""Fashion-MNIST (Zalando SE, MIT licence): the idx files, the shipped sample, and the preprocessing of its models.

Every trained model of this package takes what :func:`preprocess` gives. Needs numpy alone.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from opau_onnx.errors import LoadError

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
PREPROCESSING = f"(pixel / 255 - {MEAN}) / {STD} in float64, rounded to float32; shape (N, 1, 28, 28)"
"""What :func:`preprocess` does, in words, for cards."""

_HINT = f"install it with `apt-get install dataset-fashion-mnist`, or pass a folder or set {VARIABLE} to one"
_UBYTE = 0x08


def find_fashion_mnist() -> Path | None:
    """The folder that holds all four files: that of the environment variable if it is set, else Debian's.

    Returns:
        None where the variable is not set and Debian's package is not installed.

    Raises:
        LoadError: the variable names a folder that lacks a file.
    """
    chosen = os.environ.get(VARIABLE)
    folder = Path(chosen) if chosen else FOLDER
    missing = [name for names in FILES.values() for name in names if not (folder / name).is_file()]
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
    if split not in FILES:
        raise LoadError(f"unknown split {split!r}; expected one of {', '.join(FILES)}")
    folder = find_fashion_mnist() if folder is None else Path(folder)
    if folder is None:
        raise LoadError(f"Fashion-MNIST is not in {FOLDER}; {_HINT}")
    images_path, labels_path = (folder / name for name in FILES[split])
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise LoadError(
            f"{images_path} has shape {images.shape}, {labels_path.name} {labels.shape}; expected (N, 28, 28) and (N,)"
        )
    if labels.size and labels.max() >= len(CLASSES):
        raise LoadError(f"{labels_path} holds the label {labels.max()}; expected 0 to {len(CLASSES) - 1}")
    return images, labels.astype(np.int64)


def read_idx(path: Path, rank: int) -> Images:
    """A gzipped idx file of bytes: two zero bytes, the type, the rank, big-endian sizes, then the data.

    Args:
        path: the file. rank: the number of dimensions that it must have.

    Raises:
        LoadError: it cannot be read, is cut short or too long, or is of another type or rank.
    """
    try:
        with gzip.open(path, "rb") as stream:
            magic, data = stream.read(4), stream.read()
    except FileNotFoundError:
        raise LoadError(f"{path} does not exist; {_HINT}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise LoadError(f"{path} cannot be read as a gzip file: {error}; {_HINT}") from None
    wanted = bytes((0, 0, _UBYTE, rank))
    if magic != wanted:
        raise LoadError(f"{path} starts with {magic.hex() or 'nothing'}, an idx file of this kind with {wanted.hex()}; {_HINT}")
    if len(data) < 4 * rank:
        raise LoadError(f"{path} ends within its header; {_HINT}")
    shape = tuple(int.from_bytes(data[4 * i : 4 * i + 4], "big") for i in range(rank))
    found, expected = len(data) - 4 * rank, math.prod(shape)
    if found != expected:
        raise LoadError(f"{path} holds {found} bytes of data; its header says {shape}, {expected} bytes; {_HINT}")
    return np.frombuffer(data, np.uint8, offset=4 * rank).reshape(shape).copy()


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
    """What the models take: ``(images / 255 - MEAN) / STD``.

    Args:
        images: uint8, (N, 28, 28), 0 for the background.

    Returns:
        float32, (N, 1, 28, 28). Computed in float64 and rounded once, so the same on every machine.

    Raises:
        LoadError: another dtype or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise LoadError(f"images are {images.dtype} of shape {images.shape}; expected uint8 of shape (N, 28, 28)")
    levels = ((np.arange(256) / 255 - MEAN) / STD).astype(np.float32)
    return np.asarray(levels[images][:, np.newaxis])


def pixel_statistics(images: Images) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, scaled to [0, 1]; where MEAN and STD come from."""
    share = np.bincount(images.reshape(-1), minlength=256) / images.size
    level = np.arange(256) / 255
    mean = float(share @ level)
    return mean, float(share @ (level - mean) ** 2) ** 0.5
