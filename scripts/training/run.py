"""A run from its first epoch, or from where it stopped, to its checkpoint and card."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from opau_onnx import models
from opau_onnx.io.atomic import replacing
from opau_onnx.io.checkpoint import save_checkpoint
from training.curves import draw_curves
from training.datasets import Data, sha256
from training.loop import Scores, Training, evaluate, train_epoch
from training.pixels import Pixels, Shape, shape_for
from training.recipes import Recipe
from training.report import Log, Report
from training.state import load_state, save_state


@dataclass(frozen=True)
class Job:
    """A network to train.

    Attributes:
        name: of its files.
        architecture: a key of :data:`opau_onnx.models.ARCHITECTURES`.
        arguments: of its class.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    recipe: Recipe


@dataclass(frozen=True)
class Options:
    """Settings that change no weight.

    Attributes:
        work: folder of the log, the curves and the training state.
        resume: continue from the training state, where there is one.
        curves: draw them.
        test_every: look at the test set after every so many epochs; 0 for never. Nothing is selected by it.
    """

    work: Path
    resume: bool = False
    curves: bool = True
    test_every: int = 0


def make_job(architecture: str, activation: str, source: Data, recipe: Recipe, suffix: str = "") -> Job:
    """A job with the arguments that fit the network to the data.

    Raises:
        LoadError: an unknown architecture or activation.
    """
    shape, classes = shape_for(architecture, source.kind), source.kind.classes
    arguments: dict[str, Any] = {"activation": activation}
    # LeNet is made for 28x28 grey images of 10 classes: the shipped checkpoints don't say so again.
    if architecture != "lenet":
        arguments |= {"classes": classes, "channels": shape.channels}
    elif (shape, classes) != (Shape(1, 28), 10):
        arguments |= {"classes": classes, "channels": shape.channels, "size": shape.size}
    models.create(architecture, **arguments)  # a wrong name is found out before any time is spent
    return Job(f"{architecture}_{activation}_{source.name.replace('-', '_')}{suffix}", architecture, arguments, recipe)


def seed_everything(recipe: Recipe) -> None:
    """Make the run depend on nothing but the recipe and the machine.

    Some operators of CUDA have no deterministic form; there PyTorch warns.
    """
    if recipe.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this alone
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True, warn_only=recipe.device == "cuda")
    torch.manual_seed(recipe.seed)


def identity(job: Job, source: Data) -> dict[str, Any]:
    """All that decides the weights, as JSON data."""
    recipe = job.recipe.describe() | {"method": job.recipe.method}
    return {"architecture": job.architecture, "arguments": job.arguments, "recipe": recipe, "data": source.description}


def begin(job: Job, source: Data) -> Training:
    """A run before its first step; ``source`` is on the recipe's device."""
    seed_everything(job.recipe)
    model = models.create(job.architecture, **job.arguments).to(job.recipe.device)
    pixels = Pixels(source.kind, shape_for(job.architecture, source.kind), job.recipe.device)
    return Training.begin(job.name, model, job.recipe, pixels, source.train.steps(job.recipe.batch_size))


def state_path(job: Job, options: Options) -> Path:
    """Of the training state."""
    return options.work / f"{job.name}.state.pt"


def train(job: Job, source: Data, options: Options, console: Console) -> Training:
    """Train to the last epoch. After each the log and the training state are on the disk; the state stays until it is removed.

    Raises:
        LoadError, TrainingError: the state cannot be continued from.
        FloatingPointError: the loss or a weight is no longer finite.
    """
    run, which, state = begin(job, source), identity(job, source), state_path(job, options)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.resume and state.exists():
        load_state(state, run, which)
    log = Log(options.work / f"{job.name}.jsonl", run.history)
    report = Report(console, job.name, job.recipe.epochs, source.train.steps(job.recipe.batch_size))
    with report.shown(len(run.history)):
        while not run.done:
            record = train_epoch(run, source.train, report.step)
            if options.test_every and record["epoch"] % options.test_every == 0:
                scores = evaluate(run.model, source.test, run.pixels)
                record |= {"test_loss": scores.loss, "test_accuracy": scores.accuracy}
            log.add(record)
            save_state(state, run, which)
            report.epoch(record)
    if options.curves:
        draw_curves(job.name, run.history, options.work / f"{job.name}.png")
    return run


def finished(job: Job, source: Data, output: Path) -> bool:
    """True where the checkpoint and card of just this run are there."""
    try:
        card = json.loads((output / f"{job.name}.json").read_text(encoding="utf-8"))
        wanted = {"architecture": job.architecture, "arguments": job.arguments, **_training(job, source)}
        same = all(card[key] == value for key, value in wanted.items())
        return same and bool(card["checkpoint"]["sha256"] == sha256(output / f"{job.name}.pt"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _training(job: Job, source: Data) -> dict[str, Any]:
    """Provenance of the weights, for a card and a checkpoint."""
    pixels = Pixels(source.kind, shape_for(job.architecture, source.kind))
    return {"data": source.description, "preprocessing": str(pixels), "recipe": job.recipe.describe()}


def run(job: Job, source: Data, options: Options, output: Path, console: Console) -> None:
    """Train a network and write its checkpoint and card to ``output``."""
    trained = train(job, source, options, console)
    train_scores, test_scores = (evaluate(trained.model, split, trained.pixels) for split in (source.train, source.test))
    _write(job, source, trained, train_scores, test_scores, output)
    state_path(job, options).unlink()
    console.print(f"{job.name}.pt: test accuracy {test_scores.accuracy:.2%}", markup=False, highlight=False, soft_wrap=True)


def _write(job: Job, source: Data, trained: Training, train_scores: Scores, test_scores: Scores, output: Path) -> None:
    training = {
        **_training(job, source),
        "parameters": parameter_count(trained.model),
        "train": asdict(train_scores),
        "test": asdict(test_scores),
    }
    checkpoint = output / f"{job.name}.pt"
    example = trained.pixels(source.train.images[:2])
    made: dict[str, Any] = {"architecture": job.architecture, "arguments": job.arguments}
    save_checkpoint(checkpoint, **made, model=trained.model, example_input=example, training=training)
    # Times are left out of the checkpoint, so that they don't make it another one at each run.
    card = {"name": job.name, **made, **training, "seconds_per_epoch": [round(r["seconds"], 2) for r in trained.history]}
    card["versions"] = {"python": platform.python_version(), **{p: version(p) for p in ("torch", "numpy", "opau-onnx")}}
    card["checkpoint"] = {"file": checkpoint.name, "bytes": checkpoint.stat().st_size, "sha256": sha256(checkpoint)}
    write_json(output / f"{job.name}.json", card)


def parameter_count(model: nn.Module) -> int:
    """Learned numbers, the activations' coefficients included."""
    return sum(p.numel() for p in model.parameters())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
