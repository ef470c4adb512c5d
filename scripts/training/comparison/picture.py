"""The results as a picture: accuracy, time to train and time to run, one line for each activation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opau_onnx.plot.sheet import LEARNED, SLOPE, START, TARGET
from training.comparison.conclusions import name
from training.comparison.figures import BASE, Summary, summaries
from training.comparison.store import Store
from training.curves import picture


def draw(store: Store, path: Path) -> None:
    """Write the PNG; at least one run is finished."""
    found = summaries(store.runs)[::-1]
    places = range(len(found))
    times = {key: 1e3 * r["median_s"] for key, r in store.inference.get("results", {}).items()}
    with picture(path, (11.0, 1.6 + 0.3 * len(found))) as figure:
        accuracy, train, run = figure.subplots(1, 3, sharey=True, width_ratios=(2.2, 1, 1))
        _accuracies(accuracy, found)
        _bars(train, places, [s.epoch_seconds for s in found], "s an epoch", SLOPE)
        _bars(run, places, [times.get(s.activation, 0.0) for s in found], "ms a batch", TARGET)
        accuracy.set_yticks(list(places), [name(s) for s in found])
        for axis, title in ((accuracy, "test accuracy, %"), (train, "training"), (run, "inference")):
            axis.set_title(title)
        settings = store.settings
        text = f"{settings['architecture']} on {settings['data']['name']}, {store.budget['epochs']} epochs"
        figure.suptitle(text, fontsize=12, fontweight="bold")


def _accuracies(axis: Any, found: Sequence[Summary]) -> None:
    for place, summary in enumerate(found):
        y = [place] * len(summary.accuracies)
        axis.plot(summary.accuracies, y, "o", color=LEARNED, alpha=0.45, markersize=5, label="a run")
        axis.plot([summary.mean], [place], "|", color=START, markersize=13, markeredgewidth=2.2, label="mean")
        if summary.activation == BASE:
            axis.axvline(summary.mean, color="0.5", linewidth=0.9, linestyle="--", label="ReLU's mean")
    handles = {str(h.get_label()): h for h in axis.get_legend_handles_labels()[0]}
    axis.legend(list(handles.values()), list(handles), frameon=False, loc="best", fontsize=8)


def _bars(axis: Any, places: Sequence[int], values: Sequence[float], label: str, color: str) -> None:
    axis.barh(places, values, color=color, alpha=0.75, height=0.62)
    axis.set_xlabel(label)
