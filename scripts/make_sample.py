"""Write the sample of Fashion-MNIST that is shipped with the package.

The rule: of the test set's images in their order, the first 100 of each class. The file holds ``images`` uint8
(1000, 28, 28), ``labels`` uint8 (1000,) and ``indices`` uint16 (1000,), their places in the test set.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from opau_onnx.io.atomic import replacing
from opau_onnx.io.datasets import CLASSES, SAMPLE, load_fashion_mnist

EACH = 100
MODELS = Path(__file__).resolve().parent.parent / "models"


def choose(labels: np.ndarray) -> np.ndarray:
    """Ascending indices of the first :data:`EACH` images of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:EACH] for label in range(len(CLASSES))]))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """As np.savez_compressed, but with a fixed date in the archive: the same bytes at every run (of one zlib)."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of the idx files; Debian's by default.")] = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = MODELS / SAMPLE,
) -> None:
    """Write the sample."""
    images, labels = load_fashion_mnist(data, "test")
    indices = choose(labels)
    write_npz(output, images=images[indices], labels=labels[indices].astype(np.uint8), indices=indices.astype(np.uint16))
    typer.echo(f"{output}: {len(indices)} images, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(main)
