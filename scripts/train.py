"""Train networks with any activation: by default just as the models that are shipped in models/ were trained.

The weights after the last epoch are what is saved, and nothing is selected on the test set. Two runs on one CPU with the same
number of threads give identical weights, interrupted or not. For each activation it writes a checkpoint,
``<model>_<activation>_<data set>.pt``, and its card (``.json``); on the way a log, the curves and the training state. See
docs/training.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from training import curves
from training.datasets import DATASETS, Data, read_data
from training.precision import DEVICES, PRECISIONS, Precision
from training.recipes import METHODS, Recipe, default_method, make_recipe
from training.run import Options, finished, make_job, run

from opau_onnx import models
from opau_onnx.errors import OpauError

ROOT = Path(__file__).resolve().parent.parent
MODELS, WORK = ROOT / "models", ROOT / "out" / "training"


def main(
    activation: Annotated[list[str], typer.Option(help="Name in models/activations.py; may be given several times.")],
    model: Annotated[str, typer.Option(help=f"Architecture: {', '.join(models.ARCHITECTURES)}.")] = "lenet",
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")] = "fashion-mnist",
    data_folder: Annotated[Path | None, typer.Option("--data", help="Folder of its files (Fashion-MNIST: Debian's).")] = None,
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)} (lenet: the first).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: 15, with SGD 200.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 128.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default: 0.003, with SGD 0.1).")] = None,
    coefficient_lr: Annotated[float, typer.Option(min=0.0, help="That of the activations' coefficients over it.")] = 1.0,
    clip: Annotated[float | None, typer.Option(min=0.0, help="Largest norm of the gradient, 0: none (with SGD 5).")] = None,
    balanced: Annotated[
        bool | None, typer.Option("--balance/--no-balance", help="Coefficients on one scale (default: with SGD).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="More gain little here, and lose much on a busy machine.")] = 1,
    precision: Annotated[str, typer.Option(help=f"One of {', '.join(PRECISIONS)}.")] = "float32",
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}.")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images of either split.")] = None,
    test_every: Annotated[int, typer.Option(min=0, help="Test after every so many epochs, for the curves; 0: never.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same command was interrupted.")] = False,
    draw: Annotated[bool, typer.Option("--curves/--no-curves", help="Draw loss and accuracy (needs matplotlib).")] = True,
    output_dir: Annotated[Path, typer.Option(help="Where checkpoints and cards go.")] = MODELS,
    work_dir: Annotated[Path, typer.Option(help="Where logs, curves and training states go.")] = WORK,
) -> None:
    """Train a network with each of the activations, all by one recipe."""
    errors = Console(stderr=True)
    try:
        Precision(precision, device)
        if draw:
            curves.check_matplotlib()
        source = read_data(dataset, data_folder, limit)
        recipe = make_recipe(
            method or default_method(model), mirrored=source.kind.mirrored, clip=clip, epochs=epochs, batch_size=batch_size,
            lr=lr, seed=seed, threads=threads, balanced=balanced, coefficient_lr=coefficient_lr, precision=precision,
            device=device,
        )  # fmt: skip
        _train(activation, model, source, recipe, Options(work_dir, resume, draw, test_every), output_dir)
    except (OpauError, FloatingPointError, OSError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("interrupted; the same command with --resume goes on after the last whole epoch", soft_wrap=True)
        raise typer.Exit(130) from None


def _train(activations: list[str], model: str, source: Data, recipe: Recipe, options: Options, output: Path) -> None:
    console = Console()
    jobs = [make_job(model, name, source, recipe) for name in activations]
    for note in source.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    output.mkdir(parents=True, exist_ok=True)
    on_device = source.to(recipe.device)
    for job in jobs:
        if options.resume and finished(job, source, output):
            console.print(f"{job.name}: is there already", markup=False, highlight=False, soft_wrap=True)
        else:
            run(job, on_device, options, output, console)


if __name__ == "__main__":
    typer.run(main)
