"""Makes `import training` work, as it does for the scripts, and gives tiny data."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


def idx(array: np.ndarray) -> bytes:
    """The idx file of an array of bytes."""
    return bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 + 64 random images in the files of MNIST and Fashion-MNIST, not gzipped."""
    from opau_onnx.io import datasets

    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for images_name, labels_name in datasets.FILES.values():
        images = rng.integers(0, 256, (64, 28, 28), dtype=np.uint8)
        for name, array in ((images_name, images), (labels_name, (np.arange(64) % 10).astype(np.uint8))):
            (folder / name).with_suffix("").write_bytes(idx(array))
    return folder


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both CIFAR sets with 12 random images in each file, in the folders of their archives."""
    from training.cifar import CIFAR

    folder = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for kind in CIFAR.values():
        (folder / kind.folder).mkdir()
        for file in (name for names in kind.files.values() for name in names):
            labels = [rng.integers(0, count, 12, dtype=np.uint8) for _, count in kind.labels]
            records = np.concatenate([np.stack(labels, 1), rng.integers(0, 256, (12, 3072), dtype=np.uint8)], 1)
            (folder / kind.folder / file).write_bytes(records.tobytes())
    return folder


@pytest.fixture
def console() -> Console:
    """One that keeps what is printed, for ``console.export_text()``."""
    return Console(record=True, width=160, file=io.StringIO())


@pytest.fixture(autouse=True)
def usual_torch():
    """Runs choose threads and determinism for their whole process; tests share theirs."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
