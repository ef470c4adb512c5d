"""Console output of ``opau-collapse``: a line for each activation, before and after, comparisons, the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from opau_onnx.cli import lut_output
from opau_onnx.cli.common import console, table
from opau_onnx.cli.export_output import validation
from opau_onnx.collapse.result import CollapseResult
from opau_onnx.collapse.summary import Side


def show(result: CollapseResult, *, verbose: bool) -> None:
    """Print the result."""
    out = console()
    rows = table(out, "activation", "function", "now", "operators", "absorbed")
    for r in result.replaced:
        taken = ", ".join(r.absorbed) or "-"
        rows.add_row(escape(r.node), escape(str(r.before.config)), str(r.scheme), str(r.nodes), taken)
    out.print(rows)
    if result.tolerance:
        _approximations(out, result, verbose=verbose)
    if result.before is not None and result.after is not None:
        sides = {"before": result.before, "quantized": result.between, "after": result.after}
        _sides(out, {name: side for name, side in sides.items() if side is not None})
    if result.validation is None:
        out.print(f"{escape(str(result.path))} written, [bold yellow]not compared[/] (--no-validate)", highlight=False)
        return
    validation(out, result.validation, verbose=verbose)
    lut_output.show(out, result)
    for name, found in result.agreements.items():
        text = f"{escape(name)}: top-1 prediction differs on {found.differing:,} of {found.samples:,} samples"
        out.print(text, highlight=False)
    if result.equal:
        out.print(f"[bold green]equal[/]: {escape(str(result.path))} written", highlight=False)
    else:
        out.print(
            f"[bold red]NOT EQUAL[/]: the file is kept as {escape(str(result.path))}; {escape(str(result.requested))} was not "
            "written",
            highlight=False,
        )


def _approximations(out: Console, result: CollapseResult, *, verbose: bool) -> None:
    """Print the choice within the tolerance, its range, and with --verbose all candidates."""
    rows = table(out, "activation", f"within {result.tolerance:g}", "range of the data", "proven on", "error up to", "beyond")
    for r in result.replaced:
        found = r.approximation
        if found is None:
            continue
        seen, proven = f"[{found.seen.low:.4g}, {found.seen.high:.4g}]", f"[{found.low:.4g}, {found.high:.4g}]"
        what = found.chosen if found.bound else "nothing cheaper"
        cells = (proven, f"{found.bound:.2g}", f"{found.beyond:.2g}") if found.bound else ("-", "0", "0")
        rows.add_row(escape(r.node), what, escape(seen), escape(cells[0]), *cells[1:])
    out.print(rows)
    if verbose:
        for r in result.replaced:
            for name, outcome in (r.approximation.tried if r.approximation else {}).items():
                out.print(escape(f"{r.node}: {name}: {outcome}"), highlight=False)


def _sides(out: Console, sides: dict[str, Side]) -> None:
    """A column for each file."""
    rows = table(out, "", *sides)
    files = list(sides.values())
    rows.add_row("nodes, bodies inlined", *(f"{s.nodes:,}" for s in files))
    rows.add_row("kinds of operators", *(str(len(s.operators)) for s in files))
    rows.add_row("parameters", *(f"{s.parameters:,}" for s in files))
    rows.add_row("bytes", *(f"{s.file_bytes:,}" for s in files))
    for name in dict.fromkeys(name for s in files for name in s.microseconds):
        times = (s.microseconds.get(name) for s in files)
        rows.add_row(f"microseconds, {name}", *("" if t is None else f"{t:,.0f}" for t in times))
    out.print(rows)
