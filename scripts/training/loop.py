"""The loop: one epoch of training, and evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from opau_onnx.nn import coefficient_parameters
from training.datasets import Split
from training.pixels import Pixels
from training.precision import Precision
from training.recipes import Recipe, make_optimizer

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy and share of right answers."""

    loss: float
    accuracy: float


@dataclass
class Training:
    """A run under way: all that the next step depends on.

    Attributes:
        model: on the recipe's device, in training mode.
        generator: of order and augmentation, on the CPU.
        history: a record for each epoch that is done.
    """

    name: str
    model: nn.Module
    recipe: Recipe
    pixels: Pixels
    precision: Precision
    optimizer: Optimizer
    schedule: LRScheduler
    generator: torch.Generator
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, name: str, model: nn.Module, recipe: Recipe, pixels: Pixels, steps: int) -> Training:
        """Before the first step of a run with so many steps in an epoch."""
        precision = Precision(recipe.precision, recipe.device)
        optimizer, schedule = make_optimizer(model, recipe, recipe.epochs * steps)
        generator = torch.Generator().manual_seed(recipe.seed)
        return cls(name, model, recipe, pixels, precision, optimizer, schedule, generator)

    @property
    def done(self) -> bool:
        """True where no epoch is left."""
        return len(self.history) >= self.recipe.epochs


@dataclass
class _Sums:
    """Over the batches of an epoch so far."""

    seen: int = 0
    loss: float = 0.0
    right: int = 0
    largest_gradient: float = 0.0
    left_out: int = 0

    def add(self, size: int, loss: float, right: int, gradient: float | None) -> None:
        self.seen, self.loss, self.right = self.seen + size, self.loss + loss * size, self.right + right
        if gradient is not None and math.isfinite(gradient):
            self.largest_gradient = max(self.largest_gradient, gradient)

    def scores(self) -> Scores:
        return Scores(self.loss / self.seen, self.right / self.seen)


def train_epoch(run: Training, split: Split, after_batch: Callable[[int, Scores], None]) -> dict[str, Any]:
    """One epoch, in place; the record that it adds to the history.

    Args:
        run: is changed.
        split: the training images, on the recipe's device.
        after_batch: called with the epoch's number, from 0, and the means over the epoch so far.

    Raises:
        FloatingPointError: the loss or a weight is no longer finite.
    """
    epoch, started, sums = len(run.history), time.perf_counter(), _Sums()
    run.model.train()
    rate = run.optimizer.param_groups[0]["lr"]
    for batch in torch.split(torch.randperm(len(split), generator=run.generator), run.recipe.batch_size):
        _step(run, split, batch.to(split.labels.device), sums)
        after_batch(epoch, sums.scores())
    if not all(bool(v.isfinite().all()) for v in run.model.state_dict().values()):
        raise _not_finite(run, "a weight is not finite")
    record = _record(run, epoch, sums, rate, time.perf_counter() - started)
    run.history.append(record)
    return record


def _record(run: Training, epoch: int, sums: _Sums, rate: float, seconds: float) -> dict[str, Any]:
    scores = sums.scores()
    record: dict[str, Any] = {
        "epoch": epoch + 1, "of": run.recipe.epochs, "loss": scores.loss, "accuracy": scores.accuracy, "lr": rate,
        "seconds": round(seconds, 3),
    }  # fmt: skip
    if run.recipe.clip is not None:
        record["largest_gradient_norm"] = sums.largest_gradient
    if run.precision.scaler.is_enabled():
        record |= {"steps_left_out": sums.left_out, "scale": run.precision.scaler.get_scale()}
    learned = coefficient_parameters(run.model)
    if learned:
        record["largest_coefficient"] = max(float(p.detach().abs().max()) for p in learned if p.numel())
    return record


def _step(run: Training, split: Split, batch: Tensor, sums: _Sums) -> None:
    """One update."""
    images, labels = run.pixels.framed(split.images[batch]), split.labels[batch]
    images = run.pixels.preprocessed(run.recipe.augmentation(images, run.generator))
    with run.precision.autocast():
        logits = run.model(images)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=run.recipe.plan.smoothing)
    run.optimizer.zero_grad()
    run.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    gradient = _clip(run)
    _update(run, sums)
    value = loss.item()
    if not math.isfinite(value):
        raise _not_finite(run, f"the loss is {value}")
    sums.add(len(batch), value, int((logits.argmax(1) == labels).sum()), gradient)


def _clip(run: Training) -> float | None:
    """The norm that the gradient had; None where there is no limit."""
    if run.recipe.clip is None:
        return None
    scaler = run.precision.scaler
    scaler.unscale_(run.optimizer)
    norm = float(nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip))
    if not math.isfinite(norm) and not scaler.is_enabled():  # the scaler leaves such a step out by itself
        raise _not_finite(run, f"the norm of the gradient is {norm}")
    return norm


def _update(run: Training, sums: _Sums) -> None:
    """The optimizer's step and the schedule's; neither where the scaler finds gradients that are not finite."""
    scaler = run.precision.scaler
    before = scaler.get_scale()
    scaler.step(run.optimizer)
    scaler.update()
    if scaler.get_scale() < before:
        sums.left_out += 1
    else:
        run.schedule.step()


def _not_finite(run: Training, what: str) -> FloatingPointError:
    return FloatingPointError(f"{run.name}: {what} in epoch {len(run.history) + 1}; try a smaller --lr")


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, pixels: Pixels) -> Scores:
    """Scores in evaluation mode and float32 on a whole split; the model is left in that mode."""
    model.eval()
    loss, right = 0.0, 0
    parts = (torch.split(v, EVALUATION_BATCH) for v in (split.images, split.labels))
    for images, labels in zip(*parts, strict=True):
        logits = model(pixels(images))
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return Scores(loss / len(split), right / len(split))
