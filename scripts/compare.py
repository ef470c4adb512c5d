"""Train a network with many activations and several seeds; write a table, a picture and conclusions.

All runs share one recipe and one number of epochs. Results are kept in the work folder as they come in, so the command can be
stopped and given again. By default LeNet on Fashion-MNIST; at the end it writes docs/comparison.{json,md,png}.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
import time
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.console import Console
from training import TrainingError, curves
from training.comparison import budget, page, picture, store, work
from training.comparison.inference import measure_all
from training.datasets import DATASETS, Data
from training.precision import DEVICES, PRECISIONS, Precision
from training.recipes import METHODS, default_method, make_recipe

from opau_onnx import models
from opau_onnx.bench.machine import describe
from opau_onnx.errors import LoadError, OpauError
from opau_onnx.models.activations import ACTIVATIONS

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = tuple(name for name in ACTIVATIONS if name != "tanh")
"""Activations that users choose among; tanh is there for old networks."""


def main(
    activation: Annotated[list[str] | None, typer.Option(help="May be given several times; default: all but tanh.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each: seeds 0, 1, ...")] = 3,
    model: Annotated[str, typer.Option(help=f"Architecture: {', '.join(models.ARCHITECTURES)}.")] = "lenet",
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")] = "fashion-mnist",
    data_folder: Annotated[Path | None, typer.Option("--data", help="Folder of its files (Fashion-MNIST: Debian's).")] = None,
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)} (lenet: the first).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every run; this or --time-budget.")] = None,
    time_budget: Annotated[float | None, typer.Option(min=0.0, help="Minutes for everything; sets the epochs.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 2,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 128.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default: 0.003, with SGD 0.1).")] = None,
    precision: Annotated[str, typer.Option(help=f"One of {', '.join(PRECISIONS)}.")] = "float32",
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}.")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images of either split.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of the inference times.")] = 256,
    output: Annotated[Path, typer.Option(help="Of the results, without .json, .md and .png.")] = ROOT / "docs" / "comparison",
    work_dir: Annotated[Path, typer.Option(help="Of results so far, logs and training states.")] = ROOT / "out" / "comparison",
) -> None:
    """Compare activations, or go on where an earlier call stopped."""
    errors = Console(stderr=True)
    try:
        if (epochs is None) == (time_budget is None):
            raise TrainingError("give either --epochs or --time-budget")
        Precision(precision, device)
        curves.check_matplotlib()
        recipe = make_recipe(
            method or default_method(model), mirrored=_mirrored(dataset), epochs=epochs, batch_size=batch_size, lr=lr,
            precision=precision, device=device,
        )  # fmt: skip
        names = tuple(dict.fromkeys(activation or DEFAULT))
        wish = Wish(names, seeds, epochs, time_budget, jobs, batch, output)
        _compare(work.Settings(model, dataset, data_folder, limit, recipe, work_dir), wish)
    except BrokenProcessPool:
        errors.print("error: a worker ended unexpectedly, out of memory perhaps; the same command goes on", soft_wrap=True)
        raise typer.Exit(1) from None
    except (OpauError, OSError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on after the last whole epoch of each run", soft_wrap=True)
        raise typer.Exit(130) from None


def _mirrored(dataset: str) -> bool:
    if dataset not in DATASETS:
        raise LoadError(f"unknown data set {dataset!r}; expected one of {', '.join(DATASETS)}")
    return DATASETS[dataset].mirrored


@dataclass(frozen=True)
class Wish:
    """Settings apart from training."""

    activations: tuple[str, ...]
    seeds: int
    epochs: int | None
    minutes: float | None
    jobs: int
    batch: int
    output: Path

    def path(self, suffix: str) -> Path:
        """Of a result."""
        return self.output.with_name(self.output.name + suffix)


def _compare(settings: work.Settings, wish: Wish) -> None:
    started, source = time.monotonic(), settings.read()
    for name in wish.activations:  # a wrong name is found out before any time is spent
        settings.job(name, 0, source)
    for note in source.notes:
        _say(f"note: {note}")
    progress = settings.work / f"{wish.output.name}.json"
    kept = store.load(progress)
    chosen = _budget(settings, wish, started, kept)
    settings = replace(settings, recipe=replace(settings.recipe, epochs=chosen.epochs))
    shared = store.describe(settings, source)
    settings = replace(settings, work=settings.work / _digest(shared))
    if kept is None:
        about = describe() | {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "jobs": wish.jobs}
        command = " ".join(["scripts/compare.py", *map(quote, sys.argv[1:])])
        kept = store.begin(progress, shared, chosen, about, command)
    store.check_same(kept, shared)
    _train(settings, wish, kept, source)
    known = {r["activation"] for r in kept.runs if "failed" not in r}
    finished = tuple(name for name in ACTIVATIONS if name in known)
    if not finished:
        raise TrainingError("every run failed: " + "; ".join(r["failed"] for r in kept.runs))
    _inference(settings, kept, finished, source, wish.batch)
    replace(kept, path=wish.path(".json")).save()
    picture.draw(kept, wish.path(".png"))
    page.write(kept, wish.path(".md"), wish.path(".png").name)
    _say(f"written: {wish.output}.json, .md and .png, after {(time.monotonic() - started) / 60:.1f} minutes")


def _budget(settings: work.Settings, wish: Wish, started: float, kept: store.Store | None) -> budget.Budget:
    """Given, as in the results that are there, or measured now."""
    if wish.epochs is not None:
        return budget.Budget(None, wish.epochs, {})
    if kept is not None:  # what was measured before counts: runs of other lengths could not be compared
        return budget.Budget(kept.budget["minutes"], int(kept.budget["epochs"]), kept.budget["seconds_per_epoch"])
    assert wish.minutes is not None
    with work.pool(settings, wish.jobs) as pool:
        waiting = {name: pool.submit(work.seconds_per_epoch, settings, name) for name in wish.activations}
        seconds = {name: future.result() for name, future in waiting.items()}
    chosen = budget.choose(wish.minutes, seconds, wish.seeds, wish.jobs, time.monotonic() - started)
    text = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    _say(f"seconds an epoch: {text}; {chosen.epochs} epochs fit into {wish.minutes:g} minutes")
    return chosen


def _train(settings: work.Settings, wish: Wish, kept: store.Store, source: Data) -> None:
    """All runs that are missing, each kept as soon as it is there."""
    missing, started = kept.missing(wish.activations, wish.seeds), time.monotonic()
    if not missing:
        return
    with work.pool(settings, wish.jobs) as pool:
        waiting = {pool.submit(work.run, settings, *which): which for which in missing}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                record = future.result()
                kept.add(record)
                work.forget(settings, *waiting[future], source)
                left = (time.monotonic() - started) / done * (len(missing) - done) / 60
                _say(f"{_line(record)}  {done}/{len(missing)}, about {left:.0f} minutes left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _line(record: dict[str, Any]) -> str:
    name = f"{record['activation']}, seed {record['seed']}"
    return f"{name}: failed: {record['failed']}" if "failed" in record else f"{name}: {record['test']['accuracy']:.2%}"


def _inference(settings: work.Settings, kept: store.Store, names: tuple[str, ...], source: Data, batch: int) -> None:
    """Measured anew where an activation is missing: times from different calls can't be compared."""
    if set(names) <= set(kept.inference.get("results", {})) and kept.inference["batch"] == batch:
        return
    kept.inference = measure_all(settings, names, source, batch, _say)
    kept.save()


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
