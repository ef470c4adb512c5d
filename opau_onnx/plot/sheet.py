"""The sheet: for each activation its curve, its derivative and the inputs that it gets, one above the other."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.compare.curves import span
from opau_onnx.core.targets import TARGETS
from opau_onnx.plot.subjects import Subject, Subjects

Array = npt.NDArray[np.float64]
POINTS = 801
FAMILY = 16
"""So many groups are drawn at most."""
COLUMNS, LEGEND = 4, (2, 3, 4, 6)
"""Panels side by side, and for each number of them the columns of the legend."""
BINS = 80
WIDEST = 56
"""So many letters fit above a panel."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""Characters that an SVG file may not hold."""
_STYLE = {
    "font.size": 9, "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "opau_onnx", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "axes.unicode_minus": True,
}  # fmt: skip
LEARNED, START, TARGET, SLOPE, INPUTS = "#0b5cad", "#d9730d", "#8a8f98", "#00805f", "#7aa7d6"


def draw(title: str, subjects: Subjects, path: Path, kind: str) -> None:
    """Write the sheet.

    Args:
        title: of the sheet.
        subjects: what is drawn; at least one.
        path: of the file.
        kind: "png" or "svg".
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    found = subjects.found
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        figure = Figure(figsize=(max(3.7 * columns, 5.2), 4.9 * rows + 1.2), dpi=120)
        figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.08))
        grids = figure.subfigures(rows, columns, squeeze=False).ravel()
        for subfigure, subject in zip(grids, found, strict=False):
            _panel(subfigure, subject)
        figure.suptitle(_plain(title), fontsize=12, fontweight="bold")
        handles = {str(h.get_label()): h for axis in figure.axes for h in axis.get_legend_handles_labels()[0]}
        footer = "\n".join(textwrap.wrap(_plain(_footer(subjects)), 40 * columns))
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=LEGEND[columns - 1], frameon=False,
            title=footer, title_fontsize=8,
        )  # fmt: skip
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(path, format=kind, metadata=metadata)


def _plain(text: str) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _footer(subjects: Subjects) -> str:
    inputs = f"inputs: {subjects.inputs}" if subjects.inputs else ""
    return "; ".join(part for part in (inputs, *subjects.notes) if part)


def _panel(figure: Any, subject: Subject) -> None:
    sketch = subject.inputs
    known = sketch is not None and bool(sketch.sample.size)
    low, high = span(sketch)
    x = np.linspace(low, high, POINTS)
    groups = family(subject.config.groups)
    ratios = [3.2, 1.5, 1.0] if known else [3.2, 1.5]
    axes = figure.subplots(len(ratios), 1, sharex=True, gridspec_kw={"height_ratios": ratios})
    _curves(axes[0], subject, x, groups)
    _slopes(axes[1], subject, x, groups)
    if sketch is not None and known:
        _histogram(axes[2], sketch.sample, low, high)
        first, last = (float(v) for v in np.quantile(sketch.sample, (0.005, 0.995)))
        for axis in axes[:2]:
            axis.axvspan(first, last, color=INPUTS, alpha=0.16, linewidth=0, label="where 99 % of the inputs are")
    axes[-1].set_xlabel("x")
    axes[-1].set_xlim(low, high)
    axes[0].set_title(_label(subject, len(groups)), fontsize=8, linespacing=1.35)


def family(groups: int) -> list[int]:
    """The groups that are drawn: all, or some from the first to the last."""
    return sorted({int(g) for g in np.linspace(0, groups - 1, min(FAMILY, groups))})


def _label(subject: Subject, drawn: int) -> str:
    config = subject.config
    degrees = ", ".join(map(str, config.degrees))
    lines = [subject.name, f"{config.basis}, {config.form}, degrees ({degrees})"]
    if config.groups > 1:
        lines[1] += f", {config.groups} groups"
        lines += [f"{drawn} of {config.groups} groups drawn"] if drawn < config.groups else []
    lines += [f"started as {subject.target}"] if subject.start is not None and subject.target else []
    lines += [subject.note] if subject.note else []
    return "\n".join(_shortened(_plain(line)) for line in lines)


def _shortened(line: str) -> str:
    """A name's end tells it apart."""
    return line if len(line) <= WIDEST else f"…{line[1 - WIDEST :]}"


def _curves(axis: Any, subject: Subject, x: Array, groups: Sequence[int]) -> None:
    values = [subject.value(x, group) for group in groups]
    _crossing(axis)
    if subject.target in TARGETS and subject.start is not None:
        axis.plot(x, TARGETS[subject.target](x), color=TARGET, linewidth=1, label="what the start imitates")
    if (start := subject.start_value(x)) is not None:
        axis.plot(x, start, "--", color=START, linewidth=1.3, zorder=3, label="start, before training")
    _family(axis, x, values, LEARNED, "learned")
    axis.set_ylabel("f(x)")
    axis.set_ylim(*limits(values))


def _slopes(axis: Any, subject: Subject, x: Array, groups: Sequence[int]) -> None:
    values = [subject.slope(x, group) for group in groups]
    _crossing(axis)
    _family(axis, x, values, SLOPE, "derivative")
    axis.set_ylabel("f′(x)")
    axis.set_ylim(*limits(values))


def _crossing(axis: Any) -> None:
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.axvline(0, color="0.5", linewidth=0.8)


def _family(axis: Any, x: Array, values: Sequence[Array], color: str, label: str) -> None:
    alone = len(values) == 1
    for i, y in enumerate(values):
        axis.plot(x, y, color=color, linewidth=2.0 if alone else 1.0, alpha=1.0 if alone else 0.65, label="_" if i else label)


def limits(values: Sequence[Array]) -> tuple[float, float]:
    """The range of the values with some room; what shoots up beside a pole is cut."""
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    if not finite.size:
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    first, last = (float(v) for v in np.quantile(finite, (0.03, 0.97)))
    usual = max(last - first, 1e-12)
    low, high = max(low, first - 4 * usual), min(high, last + 4 * usual)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _histogram(axis: Any, sample: Array, low: float, high: float) -> None:
    weights = np.full(sample.size, 100.0 / sample.size)
    axis.hist(sample, bins=BINS, range=(low, high), weights=weights, color=INPUTS, label="inputs")
    axis.set_ylabel("% of inputs")
