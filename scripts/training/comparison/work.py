"""One run of the comparison in a process of its own, and the pool of such processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from training.datasets import Data, read_data
from training.loop import evaluate, train_epoch
from training.recipes import Recipe
from training.run import Job, Options, begin, make_job, parameter_count, state_path, train

WARM_STEPS, TIMED_STEPS = 10, 100
"""Of the short measurement that sets the number of epochs."""
KEPT = ("loss", "accuracy", "seconds")
"""Of an epoch's record."""


@dataclass(frozen=True)
class Settings:
    """Settings that all runs of a comparison share.

    Attributes:
        recipe: its seed is replaced by each run's.
        work: folder of logs and training states.
    """

    architecture: str
    dataset: str
    folder: Path | None
    limit: int | None
    recipe: Recipe
    work: Path

    def job(self, activation: str, seed: int, source: Data) -> Job:
        """One run."""
        recipe = dataclasses.replace(self.recipe, seed=seed)
        return make_job(self.architecture, activation, source, recipe, suffix=f"_seed{seed}")

    def read(self) -> Data:
        """The data, on the CPU."""
        return read_data(self.dataset, self.folder, self.limit)


_data: Data | None = None
"""In a worker: read once."""


def pool(settings: Settings, jobs: int) -> ProcessPoolExecutor:
    """Processes that hold the data. They are started anew, not forked: PyTorch's threads don't survive a fork."""
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (settings,))


def _start(settings: Settings) -> None:
    global _data
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers without a word; the parent has the last one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _data = settings.read().to(settings.recipe.device)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def run(settings: Settings, activation: str, seed: int) -> dict[str, Any]:
    """Train and test, in a worker; continues from a training state, which :func:`forget` removes once the result is kept.

    Returns:
        The run's record. A run whose loss left the numbers has "failed" instead of results: it would do so again.
    """
    assert _data is not None
    record: dict[str, Any] = {"activation": activation, "seed": seed}
    job = settings.job(activation, seed, _data)
    try:
        trained = train(job, _data, Options(settings.work, resume=True, curves=False), Console(quiet=True))
    except FloatingPointError as error:
        return record | {"failed": str(error)}
    return record | {
        "test": asdict(evaluate(trained.model, _data.test, trained.pixels)),
        "parameters": parameter_count(trained.model),
        "epochs": [{key: epoch[key] for key in KEPT} for epoch in trained.history],
    }


def forget(settings: Settings, activation: str, seed: int, source: Data) -> None:
    """Remove the training state of a run."""
    state_path(settings.job(activation, seed, source), Options(settings.work)).unlink(missing_ok=True)


def seconds_per_epoch(settings: Settings, activation: str) -> float:
    """Of a whole epoch, from some steps, in a worker, beside whatever the others do."""
    assert _data is not None
    training, times = begin(settings.job(activation, 0, _data), _data), [0.0]
    size = settings.recipe.batch_size
    part = _data.train.first((WARM_STEPS + TIMED_STEPS) * size)
    warm = min(WARM_STEPS, part.steps(size) - 1)
    train_epoch(training, part, lambda *_: times.append(time.perf_counter()))
    taken = times[-1] - times[warm] if warm else training.history[0]["seconds"]
    return taken / (len(times) - 1 - warm) * _data.train.steps(size)
