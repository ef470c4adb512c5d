"""The course of a run as a picture: loss, accuracy and learning rate over the epochs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opau_onnx.io.atomic import replacing
from opau_onnx.plot.sheet import LEARNED, SLOPE, START
from training import TrainingError

STYLE = {
    "font.size": 9, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.3,
}  # fmt: skip
"""As opau_onnx.plot draws."""


def check_matplotlib() -> None:
    """Raise TrainingError where matplotlib is not installed, before any time is spent."""
    if importlib.util.find_spec("matplotlib") is None:
        raise TrainingError("matplotlib, which draws, is not installed: pip install 'opau-onnx[plot]', or pass --no-curves")


@contextmanager
def picture(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure of so many inches, written as a PNG at the end; the file appears whole or not at all."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        yield figure
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def draw_curves(title: str, history: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture of a run with at least one epoch."""
    epochs = [record["epoch"] for record in history]
    tested = [record for record in history if "test_accuracy" in record]
    with picture(path, (9.6, 3.4)) as figure:
        loss, accuracy, rate = figure.subplots(1, 3)
        _line(loss, epochs, [r["loss"] for r in history], "training", LEARNED)
        _line(accuracy, epochs, [100 * r["accuracy"] for r in history], "training", LEARNED)
        if tested:
            where = [r["epoch"] for r in tested]
            _line(loss, where, [r["test_loss"] for r in tested], "test", START)
            _line(accuracy, where, [100 * r["test_accuracy"] for r in tested], "test", START)
        _line(rate, epochs, [r["lr"] for r in history], "at the epoch's start", SLOPE)
        for axis, label in ((loss, "loss"), (accuracy, "accuracy in %"), (rate, "learning rate")):
            axis.set_title(label)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend(frameon=False)
        figure.suptitle(title, fontsize=12, fontweight="bold")


def _line(axis: Any, x: Sequence[int], y: Sequence[float], label: str, color: str) -> None:
    axis.plot(x, y, color=color, linewidth=1.6, marker="." if len(x) < 40 else None, label=label)
