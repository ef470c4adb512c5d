"""Console output of ``opau-collapse --form lut``: how the model was quantized, ties, and what that changed."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from opau_onnx.collapse.lookup_check import TableCheck
from opau_onnx.collapse.lookup_validation import Drift, LutValidation
from opau_onnx.collapse.result import CollapseResult


def show(out: Console, result: CollapseResult) -> None:
    """Print it; nothing for other forms."""
    if result.quantized is not None:
        how = result.quantized.how
        weights = f"{how.weights}{' less one bit' if how.reduce_range else ''}"
        out.print(
            f"quantized: {how.activations} activations, {weights} weights by channel, {how.calibration} calibration on "
            f"{result.quantized.samples:,} samples of {escape(result.quantized.data)}",
            highlight=False,
        )
        if result.quantized.saturates:
            out.print(
                "[bold yellow]note[/]: this processor has no VNNI, so that sums of uint8 times int8 saturate in onnxruntime "
                "here and results are worse; --reduce-range or --activations int8 avoid that",
                highlight=False,
            )
    if not isinstance(result.validation, LutValidation):
        return
    for check in result.validation.activations:
        if isinstance(check, TableCheck) and check.ties:
            codes = check.comparison.elements if check.comparison else 0
            out.print(
                f"{escape(check.node)}: {check.ties:,} of {codes:,} results are so close to half-way between two codes that a "
                f"rounding may decide; for {check.otherwise:,} it does. The table holds what the nodes gave.",
                highlight=False,
            )
    for drift in result.validation.drift:
        _drift(out, drift)


def _drift(out: Console, drift: Drift) -> None:
    text = f"{escape(drift.output)} against {escape(drift.reference)}, float: "
    if drift.differ is None or drift.agreement is None:
        out.print(f"{text}[bold yellow]not judged[/], it holds no classes; {_errors(drift)}", highlight=False)
        return
    verdict = "[green]equal[/]" if drift.equal else "[bold red]DIFFERENT[/]"
    out.print(
        f"{text}the class differs for {drift.differ:,} of {drift.rows:,} samples; {drift.agreement:.2%} agree, at least "
        f"{drift.minimum:.2%} wanted: {verdict}",
        highlight=False,
    )
    right = ", ".join(f"{name} {share:.2%}" for name, share in drift.accuracy.items())
    out.print(f"  right: {right or 'not known, the data has no labels'}; {_errors(drift)}", highlight=False)


def _errors(drift: Drift) -> str:
    return f"outputs differ by up to {drift.max_abs_error:.2g}, {drift.mean_abs_error:.2g} on average"
