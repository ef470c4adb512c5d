"""Public settings of export, comparison, collapse and verification; commands make them from their options.

Nothing but the standard library is imported, so that a command can check its options before it loads anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opau_onnx.errors import CollapseError

QUANTIZED = ("uint8", "int8", "uint16", "int16")
QUANTIZED_WEIGHTS = ("int8", "int16")
CALIBRATION = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class ToleranceConfig:
    """Settings of a whole model's comparison.

    Attributes:
        atol, rtol: tolerances given by the user; None for the measured one.
        samples: rows of the largest random batch.
        seed: of the random inputs.
    """

    atol: float | None = None
    rtol: float | None = None
    samples: int = 16
    seed: int = 0

    @property
    def given(self) -> bool:
        """True where a tolerance of the user replaces the measured one."""
        return self.atol is not None or self.rtol is not None


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export; the defaults are those of ``opau-export``.

    Attributes:
        opset: version of ONNX's default domain, 18 to :func:`opau_onnx.graph.opsets.newest`; None is 20, or 22 for
            bfloat16.
        dtype: "float32", "float16", "bfloat16" or "float64", or their short names ("fp16", "half"); None keeps the model's own.
        dynamic_axes: input name or position -> axis -> name, or -> a list of axes, which get names; None makes axis 0 of every
            input "batch".
        static: no dynamic axes at all.
        external_data: weights in a file of their own; None decides by size (beyond 2 GB).
        validate: compare the file with the model.
        options: tolerance of that comparison.
        input_names, output_names: of the file, all of them in order; None for those of the model's arguments and results.
    """

    opset: int | None = None
    dtype: str | None = None
    dynamic_axes: Mapping[str | int, Mapping[int, str] | Sequence[int]] | None = None
    static: bool = False
    external_data: bool | None = None
    validate: bool = True
    options: ToleranceConfig = field(default_factory=ToleranceConfig)
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None


@dataclass(frozen=True)
class QuantizationConfig:
    """Settings of a quantization; weights have a scale for each channel.

    Attributes:
        activations: type of the quantized tensors: "uint8" or "int8"; "uint16" or "int16" for models that lose too much
            accuracy with 8 bits.
        weights: "int8" or "int16".
        calibration: method that turns the samples' values into ranges: "minmax", "entropy" or "percentile" (99.99).
        reduce_range: weights of 7 bits, for x86 processors without VNNI, whose 8-bit products saturate.
    """

    activations: str = "uint8"
    weights: str = "int8"
    calibration: str = "minmax"
    reduce_range: bool = False

    def __post_init__(self) -> None:
        for name, known in (("activations", QUANTIZED), ("weights", QUANTIZED_WEIGHTS), ("calibration", CALIBRATION)):
            if getattr(self, name) not in known:
                raise CollapseError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Data:
    """Real inputs of the model.

    Attributes:
        source: as :func:`opau_onnx.io.samples.read_samples` takes it.
        calibration: number of samples (of Fashion-MNIST's training images) that give the ranges of the activations' inputs.
    """

    source: str | Path
    calibration: int = 512


@dataclass(frozen=True)
class ValidationConfig:
    """Settings of the collapsed file's validation.

    Attributes:
        reference: the PyTorch model (as :func:`opau_onnx.export_model` takes it); None for the file that is collapsed.
        input_shapes: of inputs with open axes other than the first, by name or in order; where there is no reference.
        options: of the comparison.
        skip: compare nothing.
        min_agreement: the smallest share of samples that must keep their class where a quantized model is compared with the
            float one; see :mod:`opau_onnx.collapse.lookup_validation`.
    """

    reference: Any | str | Path | None = None
    input_shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] = field(default_factory=dict)
    options: ToleranceConfig = field(default_factory=ToleranceConfig)
    skip: bool = False
    min_agreement: float = 0.99


@dataclass(frozen=True)
class VerifyConfig:
    """Settings of a verification; the defaults are those of ``opau-verify``.

    Attributes:
        runtimes: names of :data:`opau_onnx.compare.names.RUNTIMES`, each of which must run; None for all that can.
        layerwise: compare inputs and outputs of each activation.
        atol, rtol: of the outputs; None for the measured tolerance.
        min_agreement: least share of the samples that must have PyTorch's label; None for all where labels are known.
        limit: take the first samples only.
        batch: samples in one run, where the file leaves that open.
        reference_seconds: time after which the slow ReferenceEvaluator starts no further batch; the report says how many ran.
        samples, seed: of the random inputs that are taken where there are no data.
    """

    runtimes: Sequence[str] | None = None
    layerwise: bool = False
    atol: float | None = None
    rtol: float | None = None
    min_agreement: float | None = None
    limit: int | None = None
    batch: int = 256
    reference_seconds: float = 100.0
    samples: int = 16
    seed: int = 0

    @property
    def options(self) -> ToleranceConfig:
        """Tolerance of the comparison."""
        return ToleranceConfig(self.atol, self.rtol, self.samples, self.seed)
