"""scripts/train.py on a tiny synthetic data set, as a user runs it."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from opau_onnx import checkpoint, data

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "train.py"
NAMES = ("lenet_relu_fashion_mnist", "lenet_hp1_fashion_mnist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for images_name, labels_name in data.FILES.values():
        images = rng.integers(0, 256, (64, 28, 28), dtype=np.uint8)
        labels = (np.arange(64) % 10).astype(np.uint8)
        for name, array in ((images_name, images), (labels_name, labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / name).write_bytes(gzip.compress(bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()))
    return folder


def train(folder: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    fixed = ["--data", str(folder), "--output-dir", str(output), "--epochs", "1", "--batch-size", "24"]
    command = [sys.executable, "-W", "error", str(SCRIPT), *fixed, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("first") / "made"
    done = train(folder, output, "--activation", "relu", "--activation", "hp1")
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_writes_checkpoints_and_cards(folder: Path, first: tuple[Path, str]) -> None:
    output, printed = first
    assert sorted(p.name for p in output.iterdir()) == sorted(f"{n}{s}" for n in NAMES for s in (".pt", ".json"))
    images, _ = data.load_fashion_mnist(folder, "train")
    for name in NAMES:
        assert f"{name}  epoch 1/1  loss " in printed
        path = output / f"{name}.pt"
        card = json.loads((output / f"{name}.json").read_text())
        assert card["checkpoint"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert card["checkpoint"]["bytes"] == path.stat().st_size < 2_000_000
        assert card["data"]["sha256"].keys() == {n for names in data.FILES.values() for n in names}
        assert (card["recipe"]["epochs"], card["recipe"]["seed"], len(card["seconds_per_epoch"])) == (1, 0, 1)
        assert str(folder) not in json.dumps(card)
        model, example = checkpoint.build(torch.load(path, weights_only=True), path)
        assert np.array_equal(example.numpy(), data.preprocess(images[:2]))
        assert model(example).shape == (2, 10)


def test_two_runs_are_identical(folder: Path, first: tuple[Path, str], tmp_path: Path) -> None:
    # In the other order: what was trained before must not matter.
    done = train(folder, tmp_path, "--activation", "hp1", "--activation", "relu")
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert same(state(first[0] / f"{name}.pt"), state(tmp_path / f"{name}.pt"))


def test_the_seed_matters(folder: Path, first: tuple[Path, str], tmp_path: Path) -> None:
    done = train(folder, tmp_path, "--activation", "relu", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert not same(state(first[0] / f"{NAMES[0]}.pt"), state(tmp_path / f"{NAMES[0]}.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--activation", "hp1", "--activation", "hp3"), "unknown activation 'hp3'"),
        (("--activation", "relu", "--model", "alexnet"), "unknown architecture 'alexnet'"),
        (("--activation", "relu", "--data", "nowhere"), "apt-get install dataset-fashion-mnist"),
        (("--activation", "relu", "--lr", "1e30"), "the loss is nan in epoch 1; try a smaller --lr"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(folder: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = train(folder, tmp_path, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
