"""The options of ``opau-collapse --form lut``: how to quantize, and what may change."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from typing import Annotated, Any

import typer

from opau_onnx.cli.common import fail
from opau_onnx.config import QuantizationConfig, ValidationConfig
from opau_onnx.errors import CollapseError

_PANEL = "Quantization (--form lut)"

Quantize = Annotated[
    bool,
    typer.Option("--quantize", help="Quantize INPUT first, calibrated with --data (training images).", rich_help_panel=_PANEL),
]
Activations = Annotated[
    str | None,
    typer.Option(help="uint8, int8; uint16, int16 (opset 21). Default: uint8.", show_default=False, rich_help_panel=_PANEL),
]
Weights = Annotated[
    str | None, typer.Option(help="int8, int16 (opset 21). Default: int8.", show_default=False, rich_help_panel=_PANEL)
]
Calibration = Annotated[
    str | None, typer.Option(help="minmax, entropy, percentile. Default: minmax.", show_default=False, rich_help_panel=_PANEL)
]
ReduceRange = Annotated[
    bool, typer.Option("--reduce-range", help="Weights of 7 bits, for x86 without VNNI.", rich_help_panel=_PANEL)
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        help="Share of samples that must keep the float model's class. Default: 0.99.", min=0.0, max=1.0, show_default=False,
        rich_help_panel=_PANEL,
    ),
]  # fmt: skip


def settings(*, quantize: bool, **given: Any) -> QuantizationConfig | None:
    """How to quantize; None without --quantize."""
    chosen = {name: value for name, value in given.items() if value}
    if not quantize and chosen:
        fail(f"--{next(iter(chosen)).replace('_', '-')} says how to quantize; it needs --quantize")
    try:
        return QuantizationConfig(**chosen) if quantize else None
    except CollapseError as error:
        fail(str(error))


def agreement(value: float | None, form: str) -> float:
    """The smallest share of samples that must keep their class."""
    if value is not None and form != "lut":
        fail("--min-agreement is for --form lut: other forms keep every class, or are judged by --tolerance")
    return ValidationConfig.min_agreement if value is None else value
