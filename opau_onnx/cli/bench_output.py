"""Console output and report of ``opau-bench``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from opau_onnx.bench import report
from opau_onnx.cli.bench_options import Outputs
from opau_onnx.cli.common import console, table
from opau_onnx.io.atomic import replacing


def write(content: dict[str, Any], outputs: Outputs) -> None:
    """Write the files that are asked for: all of them, or after an error none."""
    with ExitStack() as stack:
        if outputs.report is not None:
            stack.enter_context(replacing(outputs.report)).write_text(json.dumps(content, indent=1) + "\n")
        if outputs.markdown is not None:
            stack.enter_context(replacing(outputs.markdown)).write_text(report.markdown(content))
        if outputs.plot is not None:
            from opau_onnx.bench.plot import plot

            plot(content, stack.enter_context(replacing(outputs.plot)))


def show(content: dict[str, Any], written: list[Path], *, verbose: bool) -> None:
    """Print the tables, the subjects that could not be measured, and warnings."""
    out = console()
    out.print(report.about(content), highlight=False, soft_wrap=True)
    for rows in report.tables(content):
        shown = table(out, *rows.head)
        for column in shown.columns[1:]:
            column.justify = "left" if rows.title == "goals" else "right"
        for line in rows.lines:
            shown.add_row(*(escape(cell) for cell in line))
        out.print(f"\n[bold]{escape(rows.title)}[/]", highlight=False)
        out.print(shown)
    if verbose:
        _implementations(out, content)
    if missing := report.not_measured(content):
        out.print("\n[bold]not measured[/]")
        for text in missing:
            out.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
    for text in report.warnings(content):
        out.print(f"[bold yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)
    for path in written:
        out.print(f"{escape(str(path))} written", highlight=False)


def _implementations(out: Console, content: dict[str, Any]) -> None:
    """Who ran each subject, as the runtime itself recorded."""
    out.print("\n[bold]who ran it[/]")
    seen = {
        f"{kind}, {names[key]}: {result['implementation']}": None
        for cases, names in ((content["cases"], content["labels"]), (content["networks"], content["network_labels"]))
        for case in cases
        for kind in (case.get("dtype", "float32"),)
        for key, result in case["results"].items()
    }
    for text in seen:
        out.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
