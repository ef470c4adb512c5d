"""Real inputs of a model, and labels where they are known: a .npz file, a folder of .npy files, or Fashion-MNIST.

Nothing in a file is executed: pickled arrays are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.errors import LoadError
from opau_onnx.io import datasets

FASHION_MNIST = "fashion-mnist"
LABELS = "labels"
"""Name of the array that holds the class of each sample."""
SHARE = 8
"""Of the images that ship, one in so many calibrates."""
_KINDS = "expected a .npz file, a folder of .npy files (or of Fashion-MNIST's), or 'fashion-mnist'"


@dataclass(frozen=True)
class Samples:
    """Inputs of a model; the first axis of every array counts the samples.

    Attributes:
        inputs: one array for each input of the model, in its order.
        labels: int64, shape (N,); None where they are not known.
        source: what they are, in words, for reports.
        split: whether training and test samples are different ones in this source; None where the user gave it, and one set
            serves both.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    labels: npt.NDArray[np.int64] | None
    source: str
    split: bool | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def first(self, count: int) -> Samples:
        """The first ``count`` samples, or all where there are fewer."""
        return self._rows(slice(count))

    def calibration(self, count: int) -> Samples:
        """At most ``count`` samples to calibrate with; few of a source in which others must be left to test with."""
        return self.first(min(count, len(self) // SHARE) if self.split is False else count)

    def held_out(self, calibrated: int) -> Samples:
        """Those to test with after so many have calibrated; of a set that the user gave all, and the name says so."""
        if self.split or not calibrated:
            return self
        if self.split is None:
            return replace(self, source=f"{self.source}, of which the first {min(calibrated, len(self)):,} calibrated")
        rest = self._rows(slice(calibrated, None))
        return replace(rest, source=f"{self.source}, without the first {calibrated:,}, which calibrated")

    def _rows(self, rows: slice) -> Samples:
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, inputs=tuple(x[rows] for x in self.inputs), labels=labels)


def read_samples(source: str | Path, names: Sequence[str], split: datasets.Split = "test") -> Samples:
    """Read inputs for a model.

    Args:
        source: "fashion-mnist"; a .npz file; a folder with NAME.npy for each input, or with Fashion-MNIST's own files. Arrays
            bear the names of the model's inputs; for a model of one input the only array that is not called "labels" will do.
        names: of the model's inputs, in order.
        split: of Fashion-MNIST; where the data set is not installed the 1,000 test images that ship are taken, and said.

    Raises:
        LoadError: no such file, arrays that are missing, of different lengths, empty or pickled, or labels that are not whole
            numbers.
    """
    if str(source) == FASHION_MNIST:
        return _fashion_mnist(names, split, datasets.find_fashion_mnist())
    path = Path(source)
    if path.is_dir():
        if all((path / name).is_file() for name in datasets.FILES[split]):
            return _fashion_mnist(names, split, path)
        arrays = {file.stem: _load(file) for file in sorted(path.glob("*.npy"))}
        return _chosen(arrays, names, str(path))
    if not path.is_file():
        raise LoadError(f"there are no samples at {source}; {_KINDS}")
    if path.suffix != ".npz":
        raise LoadError(f"{path} is not a .npz file; {_KINDS}")
    found = _load(path)
    return _chosen(found, names, str(path))


def _load(path: Path) -> Any:
    """An array, or those of a .npz file by name."""
    try:
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError) as error:  # numpy has no error type of its own
        raise LoadError(f"{path} cannot be read: {error}; expected numpy arrays without pickled objects") from None
    except Exception as error:  # zipfile's
        raise LoadError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def _chosen(arrays: Mapping[str, Any], names: Sequence[str], source: str) -> Samples:
    labels = arrays.get(LABELS)
    others = {name: v for name, v in arrays.items() if name != LABELS or name in names}
    if len(names) == 1 and names[0] not in others and len(others) == 1:
        others = {names[0]: next(iter(others.values()))}
    missing = [name for name in names if name not in others]
    if missing:
        raise LoadError(
            f"{source} has no array for {', '.join(missing)}; it holds {', '.join(arrays) or 'none'}, the model's inputs are "
            f"{', '.join(names)}"
        )
    return _checked(tuple(others[name] for name in names), labels if LABELS not in names else None, source)


def _checked(inputs: tuple[Any, ...], labels: Any, source: str) -> Samples:
    sizes = {x.shape[0] if x.ndim else 0 for x in inputs}
    if labels is not None:
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            kind = f"{labels.dtype} of shape {labels.shape}"
            raise LoadError(f"the labels of {source} are {kind}; expected whole numbers of shape (N,)")
        sizes.add(len(labels))
    if len(sizes) != 1 or sizes == {0}:
        found = ", ".join(map(str, sorted(sizes)))
        raise LoadError(f"the arrays of {source} hold {found} samples; expected one number above 0")
    return Samples(inputs, None if labels is None else labels.astype(np.int64), source)


def _fashion_mnist(names: Sequence[str], split: datasets.Split, folder: Path | None) -> Samples:
    if len(names) != 1:
        raise LoadError(f"Fashion-MNIST has one input, the model has {len(names)}: {', '.join(names)}")
    if folder is None:
        images, labels = datasets.load_sample()
        source = "Fashion-MNIST, the 1,000 test images that ship (dataset-fashion-mnist is not installed)"
    else:
        images, labels = datasets.load_fashion_mnist(folder, split)
        source = f"Fashion-MNIST, {len(images):,} {'training' if split == 'train' else 'test'} images"
    return Samples((datasets.preprocess(images),), labels, source, split=folder is not None)
