"""Steadiness of deep networks with learned activations: short runs with and without each measure; prints a table.

Fashion-MNIST in three channels of 32x32, SGD as scripts/train.py has it but with a constant learning rate. PreActResNet is as
deep as it is, with an eighth of its channels: a step takes a tenth of a second. docs/training.md keeps the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn
from training.datasets import Data, read_data
from training.loop import Scores, Training, train_epoch
from training.pixels import Pixels, Shape
from training.recipes import Recipe, make_recipe
from training.run import seed_everything

from opau_onnx import models
from opau_onnx.cli.common import console, table
from opau_onnx.models import preact_resnet
from opau_onnx.nn import OrthogonalPade

NARROW = (8, 16, 32, 64)
LAST = 20
"""The loss that is told is the mean over so many last steps."""


@dataclass(frozen=True)
class Case:
    """A network, without its batch norms if told, and a learning rate."""

    architecture: str
    activation: str
    lr: float = 0.1
    norms: bool = True

    def __str__(self) -> str:
        return f"{self.architecture}{'' if self.norms else ' without norms'}, {self.activation}, lr {self.lr:g}"


CASES = (
    Case("preact_resnet18", "relu"), Case("preact_resnet18", "hp1"), Case("preact_resnet18", "hp2"),
    Case("preact_resnet18", "opau_chebyshev_u"), Case("preact_resnet18", "pau_b"),
    Case("preact_resnet18", "relu", lr=1.0), Case("preact_resnet18", "hp1", lr=1.0),
    Case("preact_resnet34", "relu"), Case("preact_resnet34", "hp2"),
    Case("preact_resnet18", "relu", norms=False), Case("preact_resnet18", "hp1", norms=False),
    Case("efficientnet_b0", "relu"), Case("efficientnet_b0", "hp1"),
)  # fmt: skip
MEASURES: dict[str, dict[str, Any]] = {
    "coefficients frozen": {"balanced": False, "clip": 0.0, "coefficient_lr": 0.0},
    "plain SGD": {"balanced": False, "clip": 0.0},
    "coefficients at 0.1 lr": {"balanced": False, "clip": 0.0, "coefficient_lr": 0.1},
    "norm at most 5": {"balanced": False, "clip": 5.0},
    "one scale": {"balanced": True, "clip": 0.0},
    "one scale, norm at most 5": {"balanced": True, "clip": 5.0},
}
"""The last one is what scripts/train.py does."""


def create(case: Case) -> nn.Module:
    """The network of a case, narrow where it can be."""
    widths, preact_resnet.WIDTHS = preact_resnet.WIDTHS, NARROW
    try:
        model = models.create(case.architecture, activation=case.activation, channels=3)
    finally:
        preact_resnet.WIDTHS = widths
    return model if case.norms else _without_norms(model)


def _without_norms(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return model


def study(case: Case, recipe: Recipe, source: Data) -> list[str]:
    """Train one epoch; what became of loss, coefficients and slopes."""
    seed_everything(recipe)
    model, losses = create(case), [0.0]

    def note(_: int, scores: Scores) -> None:  # the means so far, from which the last batches' is had back
        losses.append(scores.loss * len(losses))

    run = Training.begin(str(case), model, recipe, Pixels(source.kind, Shape(3, 32)), source.train.steps(recipe.batch_size))
    run.schedule = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1.0)
    try:
        train_epoch(run, source.train, note)
        loss = f"{(losses[-1] - losses[-1 - LAST]) / LAST:.2f}"
    except FloatingPointError:
        loss = f"NaN in step {len(losses)}"
    learned = [module for module in model.modules() if isinstance(module, OrthogonalPade)]
    if not learned:
        return [loss, "", ""]
    pairs = [(m.numerator.detach(), m.denominator.detach()) for m in learned]
    largest = max(float(v.abs().max()) for pair in pairs for v in pair)
    slope = max(float((c[-1] / d[-1]).abs()) for c, d in pairs)
    return [loss, f"{largest:.3g}", f"{slope:.2g}"]


def main(
    match: Annotated[str, typer.Option(help="Only cases whose name holds this.")] = "",
    steps: Annotated[int, typer.Option(min=LAST + 1)] = 100,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    data_folder: Annotated[Path | None, typer.Option("--data", help="Folder of Fashion-MNIST.")] = None,
) -> None:
    """Print loss, largest coefficient and largest slope after so many steps, for each case and measure."""
    source = read_data("fashion-mnist", data_folder, limit=steps * batch_size)
    out: Console = console()
    found = table(out, "case", "measure", "loss at the end", "largest coefficient", "largest slope")
    for case in (c for c in CASES if match in str(c)):
        for name, options in MEASURES.items():
            if case.activation == "relu" and (options["balanced"] or "coefficient_lr" in options):
                continue  # it has no coefficients
            recipe = make_recipe("sgd-cosine", mirrored=True, epochs=1, batch_size=batch_size, lr=case.lr, **options)
            found.add_row(str(case), name, *study(case, recipe, source))
    out.print(found)


if __name__ == "__main__":
    typer.run(main)
