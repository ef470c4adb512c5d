"""The speeds of a finished run as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opau_onnx.bench.report import about


def plot(content: dict[str, Any], path: Path) -> None:
    """Write a PNG: elements a second over the number of elements, a panel for each dtype."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    dtypes = list(dict.fromkeys(c["dtype"] for c in content["cases"]))
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none"}):
        columns = min(2, len(dtypes))
        rows = -(-len(dtypes) // columns)
        figure = Figure(figsize=(5.5 * columns, 3.8 * rows + 1.4), dpi=150, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axis, dtype in zip(axes, dtypes, strict=False):
            _panel(axis, content, dtype)
        for axis in axes[len(dtypes) :]:
            axis.set_visible(False)
        handles = {line.get_label(): line for axis in axes for line in axis.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3 * columns, frameon=False)
        figure.suptitle(about(content).replace("; ", "\n"), fontsize=8)
        figure.savefig(path, format="png")


def _panel(axis: Any, content: dict[str, Any], dtype: str) -> None:
    cases = [c for c in content["cases"] if c["dtype"] == dtype]
    for number, (key, label) in enumerate(content["labels"].items()):
        points = [(c["elements"], c["results"][key]["gelements_per_s"]) for c in cases if key in c["results"]]
        if points:
            main = key in ("kernel", "relu")
            axis.plot(
                *zip(*points, strict=True), label=label, color=f"C{number}", marker="o" if main else ".",
                linewidth=2.0 if main else 1.0, linestyle="--" if label.startswith("torch") else "-",
            )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_title(dtype)
    axis.set_xlabel("elements")
    axis.set_ylabel("G elements a second")
    axis.grid(alpha=0.3)
