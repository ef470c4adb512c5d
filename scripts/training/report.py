"""Progress of a run: progress on the console, a log for programs, one JSON object a line for each epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from opau_onnx.io.atomic import replacing
from training.loop import Scores


class Report:
    """Progress: a bar on a terminal, else one line an epoch."""

    def __init__(self, console: Console, name: str, epochs: int, steps: int) -> None:
        self.console, self.name, self.epochs, self.steps = console, name, epochs, steps
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(name, total=epochs * steps)

    @contextmanager
    def shown(self, done: int) -> Iterator[Report]:
        """Show the bar meanwhile; so many epochs are done already."""
        if done:
            text = f"{self.name}  continued after epoch {done}/{self.epochs}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.bar.update(self.task, completed=done * self.steps)
        with self.bar:
            yield self

    def step(self, epoch: int, scores: Scores) -> None:
        """After each batch: the means over the epoch so far."""
        self.bar.update(self.task, advance=1, description=self._line(epoch, scores))

    def epoch(self, record: dict[str, Any]) -> None:
        """After each epoch."""
        if self.console.is_terminal:
            return
        line = self._line(record["epoch"] - 1, Scores(record["loss"], record["accuracy"]))
        more = f"  test accuracy {record['test_accuracy']:.4f}" if "test_accuracy" in record else ""
        self.console.print(f"{line}{more}  {record['seconds']:.1f} s", markup=False, highlight=False, soft_wrap=True)

    def _line(self, epoch: int, scores: Scores) -> str:
        return f"{self.name}  epoch {epoch + 1}/{self.epochs}  loss {scores.loss:.4f}  accuracy {scores.accuracy:.4f}"


class Log:
    """A file of JSON lines, one an epoch, each on the disk before the next epoch begins.

    Args:
        path: of the file. It is begun anew, whatever stood in it: a line that a crash cut short goes, and so does an epoch
            whose weights were lost, which is done again.
        history: the epochs that are done already.
    """

    def __init__(self, path: Path, history: list[dict[str, Any]]) -> None:
        self.path = path
        with replacing(path) as temporary:
            temporary.write_text("".join(_line(record) for record in history), encoding="utf-8")

    def add(self, record: dict[str, Any]) -> None:
        """Append an epoch."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))
            stream.flush()
            os.fsync(stream.fileno())


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
