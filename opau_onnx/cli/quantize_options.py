"""Options of ``opau-collapse --form lut``: quantization and class agreement."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from typing import Annotated

from opau_onnx.cli.common import fail
from opau_onnx.cli.options import option
from opau_onnx.config import QuantizationConfig, ValidationConfig
from opau_onnx.errors import CollapseError

_PANEL = "Quantization (--form lut)"

Quantize = Annotated[
    bool,
    option("Quantize INPUT first, calibrated with --data (training images).", _PANEL, "--quantize"),
]
Activations = Annotated[
    str | None,
    option("uint8, int8; uint16, int16 (opset 21). Default: uint8.", _PANEL, show_default=False),
]
Weights = Annotated[str | None, option("int8, int16 (opset 21). Default: int8.", _PANEL, show_default=False)]
Calibration = Annotated[str | None, option("minmax, entropy, percentile. Default: minmax.", _PANEL, show_default=False)]
ReduceRange = Annotated[bool, option("Weights of 7 bits, for x86 without VNNI.", _PANEL, "--reduce-range")]
MinAgreement = Annotated[
    float | None,
    option(
        "Share of samples that must keep the float model's class. Default: 0.99.", _PANEL, min=0.0, max=1.0, show_default=False
    ),
]


def quantization(
    *, quantize: bool, activations: str | None, weights: str | None, calibration: str | None, reduce_range: bool
) -> QuantizationConfig | None:
    """The quantization; None without --quantize."""
    given = {
        "--activations": activations, "--weights": weights, "--calibration": calibration, "--reduce-range": reduce_range,
    }  # fmt: skip
    if not quantize:
        for name, value in given.items():
            if value:
                fail(f"{name} needs --quantize")
        return None
    default = QuantizationConfig()
    try:
        return QuantizationConfig(
            activations or default.activations, weights or default.weights, calibration or default.calibration, reduce_range
        )
    except CollapseError as error:
        fail(str(error))


def agreement(value: float | None, form: str) -> float:
    """The smallest share of samples that must keep their class."""
    if value is not None and form != "lut":
        fail("--min-agreement is for --form lut: other forms keep every class, or are judged by --tolerance")
    return ValidationConfig.min_agreement if value is None else value
