"""Train the models that are shipped in models/ on Fashion-MNIST: the same recipe for every activation.

The weights after the last epoch are what is saved, and the test set is looked at once, after that: nothing is selected
on it. Two runs on one machine with the same number of threads give identical weights. For each activation it writes
``<model>_<activation>_fashion_mnist.pt`` (a checkpoint) and ``.json`` (its card).
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from opau_onnx import data, models
from opau_onnx.checkpoint import save_checkpoint
from opau_onnx.errors import OpauError
from opau_onnx.files import replacing

MODELS = Path(__file__).resolve().parent.parent / "models"
WEIGHT_DECAY = 1e-4
LABEL_SMOOTHING = 0.1
"""Keeps the logits small (about 5, without it above 50), and with them the absolute rounding error of any runtime."""
EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Recipe:
    """What can be set from the command line and changes the weights."""

    epochs: int
    batch_size: int
    lr: float
    seed: int
    threads: int

    def describe(self) -> dict[str, Any]:
        """Everything about the training that does not differ between activations, for the card."""
        return {
            **asdict(self),
            "optimizer": f"AdamW, weight decay {WEIGHT_DECAY} on the weights of layers, 0 on biases and coefficients",
            "schedule": "one cycle (torch's OneCycleLR, cosine) that peaks at lr",
            "loss": f"cross-entropy, label smoothing {LABEL_SMOOTHING}",
            "augmentation": "horizontal flip of each image with probability 1/2",
            "selection": "none: the weights after the last epoch",
        }


@dataclass(frozen=True)
class Split:
    """Preprocessed images, float32 (N, 1, 28, 28), and labels, int64 (N,)."""

    images: Tensor
    labels: Tensor

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return math.ceil(len(self.labels) / batch_size)


@dataclass(frozen=True)
class Data:
    """Both splits, and what the card says of them."""

    train: Split
    test: Split
    description: dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy and share of right answers."""

    loss: float
    accuracy: float


class Report:
    """Progress: a bar on a terminal, else one line an epoch."""

    def __init__(self, console: Console, name: str, epochs: int, steps: int) -> None:
        self.console, self.name, self.epochs = console, name, epochs
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(name, total=epochs * steps)

    @contextmanager
    def shown(self) -> Iterator[Report]:
        """Show the bar meanwhile."""
        with self.bar:
            yield self

    def step(self, epoch: int, scores: Scores) -> None:
        """After each batch: the means over the epoch so far."""
        self.bar.update(self.task, advance=1, description=self._line(epoch, scores))

    def epoch(self, epoch: int, scores: Scores, seconds: float) -> None:
        """After each epoch."""
        if not self.console.is_terminal:
            self.console.print(f"{self._line(epoch, scores)}  {seconds:.1f} s", highlight=False, soft_wrap=True)

    def _line(self, epoch: int, scores: Scores) -> str:
        return f"{self.name}  epoch {epoch + 1}/{self.epochs}  loss {scores.loss:.4f}  accuracy {scores.accuracy:.4f}"


def read_split(folder: Path, split: data.Split) -> Split:
    """A split as tensors, in memory as a whole (188 MB for the training set)."""
    images, labels = data.load_fashion_mnist(folder, split)
    return Split(torch.from_numpy(data.preprocess(images)), torch.from_numpy(labels))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for the weights of layers; biases and the coefficients of activations are vectors and get none."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def train(model: nn.Module, split: Split, recipe: Recipe, report: Report) -> list[float]:
    """Train in place; return the seconds that each epoch took.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = recipe.epochs * split.steps(recipe.batch_size)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps)
    model.train()
    seconds = []
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        seen, loss_sum, right = 0, 0.0, 0
        for batch in torch.split(torch.randperm(len(split.labels), generator=generator), recipe.batch_size):
            loss, correct = _step(model, optimizer, split, batch, generator)
            schedule.step()
            if not math.isfinite(loss):
                raise FloatingPointError(f"{report.name}: the loss is {loss} in epoch {epoch + 1}; try a smaller --lr")
            seen, loss_sum, right = seen + len(batch), loss_sum + loss * len(batch), right + correct
            report.step(epoch, Scores(loss_sum / seen, right / seen))
        seconds.append(time.perf_counter() - started)
        report.epoch(epoch, Scores(loss_sum / seen, right / seen), seconds[-1])
    return seconds


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, split: Split, batch: Tensor, generator: torch.Generator
) -> tuple[float, int]:
    """One update; the batch's mean loss and how many answers were right."""
    images, labels = split.images[batch], split.labels[batch]
    flip = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
    logits = model(torch.where(flip, images.flip(-1), images))
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item(), int((logits.argmax(1) == labels).sum())


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> Scores:
    """Scores in evaluation mode on a whole split."""
    model.eval()
    loss, right = 0.0, 0
    for batch in torch.split(torch.arange(len(split.labels)), EVALUATION_BATCH):
        logits, labels = model(split.images[batch]), split.labels[batch]
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return Scores(loss / len(split.labels), right / len(split.labels))


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_data(folder: Path) -> Data:
    """Both splits; the hashes say which data it is, whatever the folder."""
    train, test = read_split(folder, "train"), read_split(folder, "test")
    description = {
        "name": "Fashion-MNIST",
        "source": "https://github.com/zalandoresearch/fashion-mnist (Zalando SE, MIT licence)",
        "sha256": {name: sha256(folder / name) for names in data.FILES.values() for name in names},
        "training_images": len(train.labels),
        "test_images": len(test.labels),
    }
    return Data(train, test, description)


def seed_everything(recipe: Recipe) -> None:
    """Make the run depend on nothing but the recipe and the machine."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)


def parameter_count(model: nn.Module) -> int:
    """Learned numbers, the activations' coefficients included."""
    return sum(p.numel() for p in model.parameters())


def write(path: Path, card: dict[str, Any]) -> None:
    """The card as JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def run(console: Console, architecture: str, activation: str, recipe: Recipe, source: Data, output: Path) -> None:
    """Train one model and write its checkpoint and card."""
    name = f"{architecture}_{activation}_fashion_mnist"
    made: dict[str, Any] = {"architecture": architecture, "arguments": {"activation": activation}}
    seed_everything(recipe)
    model = models.create(architecture, activation=activation)
    with Report(console, name, recipe.epochs, source.train.steps(recipe.batch_size)).shown() as report:
        seconds = train(model, source.train, recipe, report)
    scores = {"train": asdict(evaluate(model, source.train)), "test": asdict(evaluate(model, source.test))}
    training = {
        "data": source.description,
        "preprocessing": data.PREPROCESSING,
        "recipe": recipe.describe(),
        "parameters": parameter_count(model),
        **scores,
    }
    checkpoint = output / f"{name}.pt"
    example = source.train.images[:2].clone()  # torch.save writes the whole storage that a view looks at
    save_checkpoint(checkpoint, **made, model=model, example_input=example, training=training)
    # Times are left out of the checkpoint, so that they don't make it another one at each run.
    card = {"name": name, **made, **training, "seconds_per_epoch": [round(s, 2) for s in seconds]}
    card["versions"] = {"python": platform.python_version(), **{p: version(p) for p in ("torch", "numpy", "opau-onnx")}}
    card["checkpoint"] = {"file": checkpoint.name, "bytes": checkpoint.stat().st_size, "sha256": sha256(checkpoint)}
    write(output / f"{name}.json", card)
    console.print(f"{checkpoint.name}: test accuracy {scores['test']['accuracy']:.2%}", highlight=False, soft_wrap=True)


def main(
    activation: Annotated[list[str], typer.Option(help="Name in models/activations.py; may be given several times.")],
    model: Annotated[str, typer.Option(help=f"Architecture: {', '.join(models.ARCHITECTURES)}.")] = "lenet",
    data_folder: Annotated[Path | None, typer.Option("--data", help="Folder of the idx files [Debian's].")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="More gain little here, and lose much on a busy machine.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Where checkpoints and cards go.")] = MODELS,
) -> None:
    """Train a model with each of the activations, by one recipe, on Fashion-MNIST."""
    console = Console()
    recipe = Recipe(epochs, batch_size, lr, seed, threads)
    try:
        for name in activation:  # a wrong name is found out before any time is spent
            models.create(model, activation=name)
        source = read_data(data_folder or data.find_fashion_mnist() or data.FOLDER)
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in activation:
            run(console, model, name, recipe, source, output_dir)
    except (OpauError, FloatingPointError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
