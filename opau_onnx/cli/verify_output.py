"""Console output of ``opau-verify``: runtimes of each file, its activations and layers, findings, the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from opau_onnx.cli.common import console, table
from opau_onnx.compare.agreement import TopKAgreement
from opau_onnx.compare.isolated import IsolatedCheck
from opau_onnx.compare.names import PYTORCH, TORCH
from opau_onnx.compare.tensors import Comparison
from opau_onnx.verify.activations import ActivationResult
from opau_onnx.verify.findings import Finding
from opau_onnx.verify.layers import Inside, Place
from opau_onnx.verify.report import FileResult, VerifyResult

NOTES = 4
"""So many notes are shown without --verbose."""


def show(result: VerifyResult, written: Sequence[Path], *, verbose: bool) -> None:
    """Print the result."""
    out = console()
    out.print(f"{escape(result.source.name)} ({result.source.kind}) on {escape(result.data)}", highlight=False)
    for found in result.files:
        _file(out, found, result.reference["name"], verbose=verbose)
    out.print('"used" is the share of the tolerance that is used; up to 1 is equal', highlight=False)
    for path in written:
        out.print(f"{escape(str(path))} written", highlight=False)
    for name, reason in result.missing.items():
        out.print(f"[bold red]NOT RUN[/]: {name} was asked for: {escape(reason)}", highlight=False, soft_wrap=True)
    names = ", ".join(escape(str(f.file.path)) for f in result.files if not f.equal)
    if names:
        out.print(f"[bold red]NOT EQUAL[/]: {names}", highlight=False)
    elif result.complete:
        out.print(f"[bold green]equal[/]: {', '.join(escape(str(f.file.path)) for f in result.files)}", highlight=False)
    else:
        out.print("[bold yellow]incomplete[/]: what ran is equal", highlight=False)


def _file(out: Console, found: FileResult, reference: str, *, verbose: bool) -> None:
    file = found.file.describe()
    form = f", collapsed ({file['collapsed']})" if file["collapsed"] else ""
    left = f", {found.left_out:,} samples fill no batch" if found.left_out else ""
    out.print(f"\n[bold]{escape(file['file'])}[/]: {file['dtype']}, opset {file['opset']}{form}{left}", highlight=False)
    _runtimes(out, found, reference)
    if verbose:
        for run in found.file.ran:
            out.print(f"  {run.name}: {escape(', '.join(dict.fromkeys(run.record.values())))}", highlight=False, soft_wrap=True)
    if found.activations:
        _activations(out, found.activations)
    if found.inside is not None:
        _layers(out, found.inside)
    _findings(out, found.findings, verbose=verbose)


def _runtimes(out: Console, found: FileResult, reference: str) -> None:
    rows = table(out, "runtime", "output", "samples", "max error", "mean", "99 %", "ULP", "used", "top-1", "differ", "")
    labels, rounding = found.reference.labels, max((s.maximum for s in found.reference.rounding), default=None)
    own = ("", "reference") if rounding is None else (f"{rounding:.2g}", "float32 - float64")
    own = ("", "in float64") if rounding is not None and found.file.kind == "float64" else own
    rows.add_row(
        TORCH if reference == PYTORCH else escape(reference),
        "",
        f"{found.samples:,}",
        own[0],
        *[""] * 4,
        *_labels(labels),
        own[1],
    )
    for run in found.file.runs:
        if run.reason:
            continue
        for output in run.outputs:
            worst = output.worst
            numbers = [f"{v:.2g}" for v in (output.absolute.maximum, output.absolute.mean, output.absolute.percentile(99))]
            numbers += [f"{output.ulp.maximum:.3g}", f"{worst.tolerance_used:.2g}" if worst else ""]
            mark = _mark(output.equal and run.agrees(found.least))
            rows.add_row(run.name, escape(output.name), f"{run.samples:,}", *numbers, *_labels(run.labels), mark)
    out.print(rows)
    for run in found.file.runs:
        if run.reason:
            out.print(f"{run.name}  [bold yellow]not run[/]: {escape(run.reason)}", highlight=False, soft_wrap=True)
        elif run.samples < found.samples:
            seen = f"the first {run.samples:,} of {found.samples:,} samples"
            out.print(f"{run.name}  [bold yellow]in part[/]: {seen}, then its time was over", highlight=False)


def _labels(labels: TopKAgreement | None) -> list[str]:
    if labels is None:
        return ["", ""]
    return [f"{100 * labels.right / labels.known:.2f} %" if labels.known else "", f"{labels.differing:,}"]


def _activations(out: Console, activations: list[ActivationResult]) -> None:
    rows = table(out, "activation", "function", "coefficients", "isolated, worst in", "max error", "ULP", "used", "")
    for found in activations:
        stored = "fixed" if found.stored is None else "equal" if all(s.equal for s in found.stored) else "different"
        stored = stored if found.key is not None else "-"
        cells = ["not matched" if found.key is None else "not run isolated", "", "", ""]
        worst = _worst(found.checks)
        if worst is not None:
            name, error = worst
            cells = [name, f"{error.max_abs_error:.2g}", f"{error.max_ulp_error:.3g}", f"{error.tolerance_used:.2g}"]
        mark = _mark(found.equal) if found.judged else ""
        rows.add_row(escape(found.site.node), escape(str(found.config or "")), stored, *cells, mark)
    out.print(rows)


def _worst(checks: dict[str, IsolatedCheck]) -> tuple[str, Comparison] | None:
    found = [(name, a.comparison) for name, a in checks.items() if a.comparison is not None]
    return max(found, key=lambda pair: pair[1].tolerance_used, default=None)


def _layers(out: Console, inside: Inside) -> None:
    every = [(layer.node, place) for layer in inside.activations for place in layer.places]
    every += [(place.name, place) for place in inside.results]
    runtimes = list(dict.fromkeys(name for _, place in every for name in place.runtimes))
    rows = table(out, "layer by layer", "", "torch's own", *runtimes)
    for name, place in every:
        rows.add_row(escape(name), place.what, f"{place.torch_rounding:.2g}", *(_cell(place, runtime) for runtime in runtimes))
    out.print(rows)


def _cell(place: Place, runtime: str) -> str:
    found = place.runtimes.get(runtime)
    if found is None:
        return "-"
    text = f"{found.max_abs_error:.2g} ({found.tolerance_used:.2g})"
    return text if found.equal else f"[bold red]{text}[/]"


def _findings(out: Console, findings: list[Finding], *, verbose: bool) -> None:
    failing = [f for f in findings if f.fails]
    others = [f for f in findings if not f.fails and f.kind != "note"]
    notes = list(dict.fromkeys(f.text for f in findings if f.kind == "note"))
    for finding in failing:
        out.print(f"[bold red]found[/]: {escape(finding.text)}", highlight=False, soft_wrap=True)
    for finding in others:
        out.print(f"[bold yellow]{escape(finding.text)}[/]", highlight=False, soft_wrap=True)
    for text in notes if verbose else notes[:NOTES]:
        out.print(f"note: {escape(text)}", highlight=False, soft_wrap=True)
    if len(notes) > NOTES and not verbose:
        out.print(f"note: {len(notes) - NOTES} more with --verbose", highlight=False)


def _mark(equal: bool) -> str:
    return "[green]equal[/]" if equal else "[bold red]DIFFERENT[/]"
