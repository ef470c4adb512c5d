"""The recipes: that of the shipped models is what it was, number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from training import TrainingError
from training.datasets import DATASETS, read_data
from training.recipes import default_method, make_optimizer, make_recipe, parameter_groups
from training.run import Options, identity, make_job, run, train

from opau_onnx import models
from opau_onnx.io import datasets
from opau_onnx.nn import coefficient_parameters

MODELS = Path(__file__).resolve().parents[2] / "models"
CARD = json.loads((MODELS / "lenet_hp1_fashion_mnist.json").read_text())


def shipped(**options: Any) -> Any:
    return make_recipe(default_method("lenet"), mirrored=DATASETS["fashion-mnist"].mirrored, **options)


def as_it_was(activation: str, images: Tensor, labels: Tensor, epochs: int, batch_size: int, lr: float) -> nn.Module:
    """The loop that trained the shipped models, in one piece."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    model = models.create("lenet", activation=activation)
    generator = torch.Generator().manual_seed(0)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 1e-4},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    steps = epochs * -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(labels), generator=generator), batch_size):
            x, y = images[batch], labels[batch]
            flip = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
            loss = nn.functional.cross_entropy(model(torch.where(flip, x.flip(-1), x)), y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


@pytest.mark.parametrize("activation", ["relu", "hp1", "hp2", "prelu"])
def test_the_shipped_models_would_come_out_the_same(
    activation: str, idx_folder: Path, tmp_path: Path, console: Console
) -> None:
    source = read_data("fashion-mnist", idx_folder)
    images = torch.from_numpy(datasets.preprocess(source.train.images[:, 0].numpy()))
    expected = as_it_was(activation, images, source.train.labels, 3, 24, 3e-3).state_dict()
    job = make_job("lenet", activation, source, shipped(epochs=3, batch_size=24))
    found = train(job, source, Options(tmp_path, curves=False), console).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found.keys() == expected.keys()


def test_the_shipped_cards_say_the_same(idx_folder: Path, tmp_path: Path, console: Console) -> None:
    assert shipped().describe() == CARD["recipe"]
    assert list(shipped().describe()) == list(CARD["recipe"])
    source = read_data("fashion-mnist", idx_folder)
    job = make_job("lenet", "hp1", source, shipped(epochs=1, batch_size=64))
    assert (job.name, job.architecture, job.arguments) == (CARD["name"], CARD["architecture"], CARD["arguments"])
    run(job, source, Options(tmp_path, curves=False), tmp_path, console)
    card = json.loads((tmp_path / f"{job.name}.json").read_text())
    assert list(card) == list(CARD)
    assert card["preprocessing"] == CARD["preprocessing"]
    content = torch.load(tmp_path / f"{job.name}.pt", weights_only=True)
    before = torch.load(MODELS / f"{job.name}.pt", weights_only=True)
    assert list(content) == list(before)
    assert list(content["training"]) == list(before["training"])


def test_digits_are_not_mirrored() -> None:
    assert not DATASETS["mnist"].mirrored
    assert make_recipe("onecycle", mirrored=False).describe()["augmentation"] == "none"


def test_defaults_and_options() -> None:
    recipe = make_recipe(default_method("preact_resnet34"), mirrored=True)
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.clip, recipe.balanced) == (200, 128, 0.1, 5.0, True)
    other = make_recipe(
        "sgd-cosine", mirrored=True, clip=0.0, balanced=False, coefficient_lr=0.1, precision="bfloat16", lr=0.2, epochs=3
    )
    assert (other.clip, other.balanced, other.lr, other.epochs) == (None, False, 0.2, 3)
    described, default = other.describe(), recipe.describe()
    assert described["coefficient_lr"] == "0.1 times lr"
    assert described["precision"] == "bfloat16 autocast"
    assert {"gradient_norm", "coefficients"} <= default.keys() - described.keys()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lbfgs", {}, "unknown method 'lbfgs'; expected one of onecycle, sgd-cosine, sgd-step"),
        ("onecycle", {"epochs": 0}, "epochs is 0; expected a number above 0"),
        ("onecycle", {"lr": float("nan")}, "lr is nan"),
        ("onecycle", {"clip": -1.0}, r"clip is -1\.0; expected 0 or more"),
    ],
)
def test_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_recipe(method, mirrored=True, **options)


def test_groups_hold_every_parameter_once() -> None:
    model = models.create("lenet", activation="hp1")
    recipe = make_recipe("sgd-cosine", mirrored=True, coefficient_lr=0.5)
    weights, vectors, learned = parameter_groups(model, recipe)
    assert sorted(id(p) for g in (weights, vectors, learned) for p in g["params"]) == sorted(map(id, model.parameters()))
    assert (weights["weight_decay"], vectors["weight_decay"], learned["weight_decay"]) == (5e-4, 0.0, 0.0)
    assert learned["lr"] == pytest.approx(0.05)
    assert {id(p) for p in learned["params"]} == {id(p) for p in coefficient_parameters(model)}
    assert len(parameter_groups(models.create("lenet", activation="relu"), recipe)) == 2


@pytest.mark.parametrize(
    ("method", "expected"),
    [("sgd-cosine", [0.1, 0.05, 0.0]), ("sgd-step", [0.1, 0.01, 0.001]), ("onecycle", [0.1 / 25, None, 0.1 / 25 / 1e4])],
)
def test_schedules_begin_halfway_and_end(method: str, expected: list[float | None]) -> None:
    model = models.create("lenet", activation="hp1")
    recipe = make_recipe(method, mirrored=True, lr=0.1, coefficient_lr=0.5)
    optimizer, schedule = make_optimizer(model, recipe, 100)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step() if len(rates) < 100 else None
    rates.append([group["lr"] for group in optimizer.param_groups])
    for place, value in zip((0, 50, 100), expected, strict=True):
        assert rates[place][-1] == pytest.approx(rates[place][0] / 2)
        if value is not None:
            assert rates[place][0] == pytest.approx(value, abs=1e-4)


def test_identity_tells_runs_apart(idx_folder: Path) -> None:
    source = read_data("fashion-mnist", idx_folder)
    base = identity(make_job("lenet", "hp1", source, shipped()), source)
    others = {"seed": 1, "lr": 1e-3, "clip": 1.0, "precision": "bfloat16", "coefficient_lr": 0.5, "balanced": True}
    for options in ({name: value} for name, value in others.items()):
        assert identity(make_job("lenet", "hp1", source, shipped(**options)), source) != base
