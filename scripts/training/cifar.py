"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in their own binary form. Needs numpy alone.

A file is a row of records without a header: one label byte (CIFAR-100: two, the coarse and the fine one), then 3,072 bytes, the
32x32 red values, the green and the blue ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from opau_onnx.errors import LoadError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]
SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Kind:
    """One of the two data sets.

    Attributes:
        title: its name.
        folder: that its archive unpacks to.
        labels: for each label byte of a record its name and the number of classes; the last one is the class.
        files: split -> names.
        records: in each file, as published.
        mean, std: of red, green and blue in the training images, scaled to [0, 1], to four places, as they are customary.
    """

    title: str
    folder: str
    labels: tuple[tuple[str, int], ...]
    files: dict[Split, tuple[str, ...]]
    records: dict[Split, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def classes(self) -> int:
        """How many."""
        return self.labels[-1][1]

    def published(self, split: Split) -> int:
        """Images in a split, as published."""
        return self.records[split] * len(self.files[split])


CIFAR: dict[str, Kind] = {
    "cifar-10": Kind(
        "CIFAR-10", "cifar-10-batches-bin", (("label", 10),),
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        {"train": 10_000, "test": 10_000}, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
    ),
    "cifar-100": Kind(
        "CIFAR-100", "cifar-100-binary", (("coarse label", 20), ("label", 100)),
        {"train": ("train.bin",), "test": ("test.bin",)},
        {"train": 50_000, "test": 10_000}, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
    ),
}  # fmt: skip
"""Name -> data set."""


def find_cifar(name: str, folder: Path) -> Path:
    """Where the files are: the folder itself, or the one in it that the published archive unpacks to.

    Raises:
        LoadError: files are missing in both.
    """
    kind, folder = CIFAR[name], Path(folder)
    names = [file for files in kind.files.values() for file in files]
    missing: list[str] = []
    for place in (folder / kind.folder, folder):
        missing = [file for file in names if not (place / file).is_file()]
        if not missing:
            return place
    raise LoadError(f"{folder} lacks {', '.join(missing)}; {_hint(kind)}")


def load_cifar(name: str, folder: Path, split: Split) -> tuple[Images, Labels]:
    """One split of CIFAR-10 or CIFAR-100.

    Args:
        name: a key of :data:`CIFAR`.
        folder: as for :func:`find_cifar`.
        split: "train" or "test".

    Returns:
        images, uint8 (N, 3, 32, 32); labels, int64 (N,), the fine ones of CIFAR-100. For the published files N is
        :meth:`Kind.published`; nothing else tells a file that was cut between two records.

    Raises:
        LoadError: an unknown name or split, or files that are missing, hold no whole number of records, more than the published
            ones, or a label that there is not.
    """
    if name not in CIFAR:
        raise LoadError(f"unknown data set {name!r}; expected one of {', '.join(CIFAR)}")
    kind = CIFAR[name]
    if split not in kind.files:
        raise LoadError(f"unknown split {split!r}; expected one of {', '.join(kind.files)}")
    place = find_cifar(name, folder)
    records = np.concatenate([_records(place / file, kind, kind.records[split]) for file in kind.files[split]])
    start = len(kind.labels)
    return records[:, start:].reshape(-1, *SHAPE), records[:, start - 1].astype(np.int64)


def _records(path: Path, kind: Kind, most: int) -> npt.NDArray[np.uint8]:
    """The records of a file, uint8 (N, label bytes + 3072)."""
    width = len(kind.labels) + _PIXELS
    try:
        size = path.stat().st_size
        if size > most * width:
            raise LoadError(f"{path} has {size} bytes; the published file has {most * width}; {_hint(kind)}")
        content = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}; {_hint(kind)}") from None
    if not content or len(content) % width:
        raise LoadError(f"{path} has {len(content)} bytes, no whole number of records of {width}; {_hint(kind)}")
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    for column, (name, count) in enumerate(kind.labels):
        if (largest := int(records[:, column].max())) >= count:
            raise LoadError(f"{path} holds the {name} {largest}; expected 0 to {count - 1}; {_hint(kind)}")
    return records


def _hint(kind: Kind) -> str:
    return f"expected {kind.folder} of the binary version at {SOURCE}"
