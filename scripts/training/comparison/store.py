"""The results as they come in: one JSON file, whole after every run, from which everything else is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opau_onnx.errors import LoadError
from training import TrainingError
from training.comparison.budget import Budget
from training.comparison.work import Settings
from training.datasets import Data
from training.run import identity, write_json
from training.state import describe_differences

FORMAT = "opau_onnx.comparison/1"


@dataclass
class Store:
    """Results and where they are kept.

    Attributes:
        path: of the JSON file.
        settings: what all runs share, as JSON data.
        budget: how the number of epochs came about, as JSON data.
        machine: what it ran on.
        runs: records of :func:`training.comparison.work.run`.
        inference: of :func:`training.comparison.inference.measure_all`; empty before it.
        command: that began it.
    """

    path: Path
    settings: dict[str, Any]
    budget: dict[str, Any]
    machine: dict[str, Any]
    command: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    inference: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        content = {key: value for key, value in vars(self).items() if key != "path"}
        write_json(self.path, {"format": FORMAT, **content})

    def add(self, record: dict[str, Any]) -> None:
        """Keep a run."""
        self.runs.append(record)
        self.save()

    def missing(self, activations: Iterable[str], seeds: int) -> list[tuple[str, int]]:
        """(activation, seed) that are still to run: all activations with a seed before the next seed."""
        done = {(r["activation"], r["seed"]) for r in self.runs}
        return [(name, seed) for seed in range(seeds) for name in activations if (name, seed) not in done]


def describe(settings: Settings, source: Data) -> dict[str, Any]:
    """Settings that runs must share to be compared: everything that decides the weights, apart from activation and seed."""
    record = identity(settings.job("relu", 0, source), source)
    record["arguments"] = {key: value for key, value in record["arguments"].items() if key != "activation"}
    record["recipe"] = {key: value for key, value in record["recipe"].items() if key != "seed"}
    return record


def load(path: Path) -> Store | None:
    """The results of an earlier call; None where there are none.

    Raises:
        LoadError: the file is not one of these, or damaged.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise LoadError(f"{path} has format {content['format']!r}; this version reads {FORMAT!r}")
        store = Store(path, **{key: value for key, value in content.items() if key != "format"})
        for run in store.runs:
            if not (isinstance(run["activation"], str) and isinstance(run["seed"], int)):
                raise TypeError("a run has no activation or seed")
            float(0 if "failed" in run else run["test"]["accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise LoadError(f"{path} is no comparison of this version ({what}); pass another --output, or remove it") from None
    return store


def check_same(store: Store, settings: dict[str, Any]) -> None:
    """Raise TrainingError where the kept runs were made with other settings."""
    if differences := describe_differences(store.settings, settings):
        raise TrainingError(f"{store.path} holds runs with other settings: {differences}; pass another --output, or remove it")


def begin(path: Path, settings: dict[str, Any], budget: Budget, machine: dict[str, Any], command: str) -> Store:
    """A new file without runs."""
    store = Store(path, settings, budget.as_dict(), machine, command)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save()
    return store
