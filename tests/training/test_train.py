"""scripts/train.py on tiny synthetic data sets, as a user runs it."""

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
import typer
from click.testing import Result
from typer.testing import CliRunner

from opau_onnx.io import checkpoint, datasets

from .conftest import SCRIPTS, idx

NAMES = ("lenet_relu_fashion_mnist", "lenet_hp1_fashion_mnist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gzipped")
    rng = np.random.default_rng(0)
    for images_name, labels_name in datasets.FILES.values():
        images = rng.integers(0, 256, (64, 28, 28), dtype=np.uint8)
        labels = (np.arange(64) % 10).astype(np.uint8)
        for name, array in ((images_name, images), (labels_name, labels)):
            (folder / name).write_bytes(gzip.compress(idx(array)))
    return folder


def arguments(folder: Path, output: Path, *options: str) -> list[str]:
    fixed = ["--data", str(folder), "--output-dir", str(output), "--epochs", "1", "--batch-size", "24", "--no-curves"]
    return [*fixed, "--work-dir", str(work(output)), *options]


def work(output: Path) -> Path:
    return output.parent / f"{output.name}_work"


def command(folder: Path, output: Path, *options: str) -> list[str]:
    return [sys.executable, "-W", "error", str(SCRIPTS / "train.py"), *arguments(folder, output, *options)]


def train(folder: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(command(folder, output, *options), capture_output=True, text=True, timeout=300, check=False)


def here(folder: Path, output: Path, *options: str) -> Result:
    """In this process, which is quicker."""
    import train as script

    app = typer.Typer()
    app.command()(script.main)
    return CliRunner().invoke(app, arguments(folder, output, *options))


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("first") / "made"
    done = train(folder, output, "--activation", "relu", "--activation", "hp1", "--curves")
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_writes_checkpoints_and_cards(folder: Path, first: tuple[Path, str]) -> None:
    output, printed = first
    assert sorted(p.name for p in output.iterdir()) == sorted(f"{n}{s}" for n in NAMES for s in (".pt", ".json"))
    images, _ = datasets.load_fashion_mnist(folder, "train")
    for name in NAMES:
        assert f"{name}  epoch 1/1  loss " in printed
        path = output / f"{name}.pt"
        card = json.loads((output / f"{name}.json").read_text())
        assert card["checkpoint"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert card["checkpoint"]["bytes"] == path.stat().st_size < 2_000_000
        assert card["data"]["sha256"].keys() == {n for names in datasets.FILES.values() for n in names}
        assert (card["recipe"]["epochs"], card["recipe"]["seed"], len(card["seconds_per_epoch"])) == (1, 0, 1)
        assert str(folder) not in json.dumps(card)
        model, example = checkpoint.build(torch.load(path, weights_only=True), path)
        assert np.array_equal(example.numpy(), datasets.preprocess(images[:2]))
        assert model(example).shape == (2, 10)


def test_writes_logs_and_curves(first: tuple[Path, str]) -> None:
    found = work(first[0])
    assert sorted(p.name for p in found.iterdir()) == sorted(f"{n}{s}" for n in NAMES for s in (".jsonl", ".png"))
    for name in NAMES:
        (record,) = [json.loads(line) for line in (found / f"{name}.jsonl").read_text().splitlines()]
        assert (record["epoch"], record["of"]) == (1, 1)
        assert record.keys() >= {"loss", "accuracy", "lr", "seconds"}
        assert ("largest_coefficient" in record) == ("hp1" in name)
        assert (found / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_run_goes_on_and_ends_the_same(folder: Path, tmp_path: Path) -> None:
    options, name = ("--activation", "hp1", "--epochs", "40"), NAMES[1]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = train(folder, whole, *options)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(command(folder, parts, *options), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 3/40" in line:
                process.kill()
    assert process.returncode < 0
    assert not (parts / f"{name}.pt").exists()
    again = train(folder, parts, *options, "--resume")
    assert again.returncode == 0, again.stderr
    assert f"{name}  continued after epoch " in again.stdout
    assert f"{name}  epoch 2/40" not in again.stdout
    assert (parts / f"{name}.pt").read_bytes() == (whole / f"{name}.pt").read_bytes()
    log = (work(parts) / f"{name}.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == list(range(1, 41))
    once_more = here(folder, parts, *options, "--resume")
    assert once_more.exit_code == 0
    assert once_more.stdout.splitlines()[-1] == f"{name}: is there already"


def test_cifar_100_with_another_method(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "data" / "cifar-100-binary"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train.bin", "test.bin"):
        labels = np.stack([np.arange(30) % 20, np.arange(30) % 100], 1).astype(np.uint8)
        (place / name).write_bytes(np.concatenate([labels, rng.integers(0, 256, (30, 3072), dtype=np.uint8)], 1).tobytes())
    options = ("--dataset", "cifar-100", "--method", "sgd-step", "--precision", "bfloat16", "--activation", "hp2")
    done = here(place.parent, tmp_path / "made", *options)
    assert done.exit_code == 0, done.stderr
    assert "note: CIFAR-100: 30 train images were read; the published set has 50,000" in done.stdout
    path = tmp_path / "made" / "lenet_hp2_cifar_100.pt"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["arguments"] == {"activation": "hp2", "classes": 100, "channels": 3, "size": 32}
    assert card["recipe"]["precision"] == "bfloat16 autocast"
    model, example = checkpoint.build(torch.load(path, weights_only=True), path)
    assert example.shape == (2, 3, 32, 32)
    assert model(example).shape == (2, 100)


def test_a_deep_network_takes_grey_images_as_three_channels_of_32x32(folder: Path, tmp_path: Path) -> None:
    options = ("--model", "preact_resnet18", "--activation", "hp1", "--limit", "6", "--batch-size", "3")
    done = here(folder, tmp_path / "made", *options)
    assert done.exit_code == 0, done.stderr
    path = tmp_path / "made" / "preact_resnet18_hp1_fashion_mnist.pt"
    content = torch.load(path, weights_only=True)
    assert content["arguments"] == {"activation": "hp1", "classes": 10, "channels": 3}
    assert content["training"]["recipe"]["optimizer"].startswith("SGD with momentum 0.9")
    assert content["training"]["data"]["training_images"] == 6
    assert content["example_input"].shape == (2, 3, 32, 32)
    assert all(v.isfinite().all() for v in content["state_dict"].values())


def test_two_runs_are_identical(folder: Path, first: tuple[Path, str], tmp_path: Path) -> None:
    # In the other order: what was trained before must not matter.
    done = train(folder, tmp_path / "made", "--activation", "hp1", "--activation", "relu")
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert same(state(first[0] / f"{name}.pt"), state(tmp_path / "made" / f"{name}.pt"))


def test_the_seed_matters(folder: Path, first: tuple[Path, str], tmp_path: Path) -> None:
    done = here(folder, tmp_path / "made", "--activation", "relu", "--seed", "1")
    assert done.exit_code == 0, done.stderr
    assert not same(state(first[0] / f"{NAMES[0]}.pt"), state(tmp_path / "made" / f"{NAMES[0]}.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--activation", "hp1", "--activation", "hp3"), "unknown activation 'hp3'"),
        (("--activation", "relu", "--model", "alexnet"), "unknown architecture 'alexnet'"),
        (("--activation", "relu", "--data", "nowhere"), "apt-get install dataset-fashion-mnist"),
        (("--activation", "relu", "--lr", "1e30"), "the loss is nan in epoch 1; try a smaller --lr"),
        (("--activation", "relu", "--dataset", "cifar-10"), "lacks data_batch_1.bin"),
        (("--activation", "relu", "--method", "lbfgs"), "unknown method 'lbfgs'"),
        (("--activation", "relu", "--precision", "int8"), "precision 'int8' on device 'cpu'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(folder: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = here(folder, tmp_path / "made", *options)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [p for p in tmp_path.rglob("*") if p.suffix in (".pt", ".json", ".png")] == []
