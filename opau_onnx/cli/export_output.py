"""Console output of ``opau-export``: a line for each activation, a table of comparisons, the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape

from opau_onnx.cli.common import console, table
from opau_onnx.compare.tensors import Comparison
from opau_onnx.compare.validation import Validation
from opau_onnx.export.api import ExportResult
from opau_onnx.io.source import Source


def show(result: ExportResult, *, verbose: bool, validate_only: bool) -> None:
    """Print the result."""
    out = console()
    count = len(result.activations)
    out.print(
        f"{escape(result.source.name)} ({result.source.kind}), {result.dtype}, opset {result.opset}: "
        + (f"{count} learned activation{'s' if count != 1 else ''}" if count else "no learned activation in this model"),
        highlight=False,
    )
    adopted(out, result.source)
    if result.validation is None:
        for record in result.activations:
            out.print(f"  {escape(record['node'])}: {_config(record)}", highlight=False)
        out.print(f"{escape(str(result.path))} written, [bold yellow]not compared[/] with PyTorch (--no-validate)")
        return
    validation(out, result.validation, verbose=verbose)
    if result.guards:
        more = f" and {len(result.guards) - 6} more" if len(result.guards) > 6 else ""
        text = f"the file holds for sizes where, as torch.export assumed: {'; '.join(result.guards[:6])}{more}"
        out.print(escape(text), highlight=False, soft_wrap=True)
    _verdict(out, result, validate_only=validate_only)


def adopted(out: Console, source: Source) -> None:
    """Print the activations of other libraries and their replacements."""
    for record in source.adopted:
        out.print(f"adopted: {escape(str(record))}", highlight=False)
    for line in source.left:
        out.print(f"[bold yellow]not adopted[/]: {escape(line)}", highlight=False)


def _config(record: dict[str, Any]) -> str:
    groups = f", {record['groups']} groups along axis {record['axis']}" if record["groups"] > 1 else ""
    return f"{record['basis']}, {record['form']}, degrees {tuple(record['degrees'])}{groups}"


def validation(out: Console, found: Validation, *, verbose: bool) -> None:
    """The activations and the outputs that were compared."""
    if found.activations:
        rows = table(out, "activation", "function", "coefficients", "max error", "ULP", "used", "")
        for check in found.activations:
            row = [escape(check.node), escape(str(check.config)), check.coefficients]
            rows.add_row(*row, *(_numbers(check.comparison) if check.comparison else ["-", "-", "-"]), _mark(check.equal))
        out.print(rows)
    rows = table(out, "whole model", "elements", "max error", "ULP", "tolerance", "used", "")
    for comparison in found.outputs if verbose else _worst(found.outputs):
        numbers = _numbers(comparison)
        rows.add_row(
            escape(comparison.name), f"{comparison.elements:,}", numbers[0], numbers[1], f"{comparison.atol:.2g}", numbers[2],
            _mark(comparison.equal),
        )  # fmt: skip
    if found.reason:
        out.print(f"[bold red]NOT COMPARABLE[/]: {escape(found.reason)}", highlight=False, soft_wrap=True)
    else:
        out.print(rows)
    _refused(out, found)
    out.print(f"{escape(found.reference)} against {escape(found.runtime)}", highlight=False)
    out.print('"used" is the share of the tolerance that is used; up to 1 is equal', highlight=False)


def _worst(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Of each kind of input, the batch that uses most of its tolerance; of those of other sizes, one."""
    kept: dict[str, Comparison] = {}
    for comparison in comparisons:
        output, _, batch = comparison.name.partition(", random, ")
        key = f"{output}, {batch.partition(', batch')[0] if batch.startswith('scale') else 'other sizes'}" if batch else output
        if key not in kept or comparison.tolerance_used > kept[key].tolerance_used:
            kept[key] = comparison
    return list(kept.values())


def _numbers(comparison: Comparison) -> list[str]:
    return [f"{comparison.max_abs_error:.2g}", f"{comparison.max_ulp_error:.3g}", f"{comparison.tolerance_used:.2g}"]


def _mark(equal: bool) -> str:
    return "[green]equal[/]" if equal else "[bold red]DIFFERENT[/]"


def _refused(out: Console, found: Validation) -> None:
    if found.refused:
        text = f"not compared, since the model itself fails there: {'; '.join(found.refused)}"
        out.print(escape(text), highlight=False, soft_wrap=True)


def _verdict(out: Console, result: ExportResult, *, validate_only: bool) -> None:
    if result.equal:
        done = "compared" if validate_only else "written"
        out.print(f"[bold green]equal[/]: {escape(str(result.path))} {done}", highlight=False)
    elif validate_only:
        out.print(f"[bold red]NOT EQUAL[/]: {escape(str(result.path))} does not compute what the model does", highlight=False)
    else:
        out.print(
            f"[bold red]NOT EQUAL[/]: the file is kept as {escape(str(result.path))}; {escape(str(result.requested))} was not "
            "written",
            highlight=False,
        )
