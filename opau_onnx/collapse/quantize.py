"""Quantization of a float model by onnxruntime's own static quantization, activations included.

onnxruntime quantizes the operators on a list. So each activation is replaced for the time by a function of one input whose name
is put on the list (:mod:`opau_onnx.collapse.placeholders`); afterwards the activations stand between DequantizeLinear and
QuantizeLinear.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from opau_onnx.collapse.placeholders import NAME, insert_placeholders, remove_placeholders
from opau_onnx.config import QuantizationConfig
from opau_onnx.errors import CollapseError
from opau_onnx.graph import save
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.io.samples import Samples
from opau_onnx.runtime.processor import saturates_8_bit

PERCENTILE = 99.99
BATCH = 32
"""Samples in one run."""
OPSET_16_BIT = 21
"""The first in which ONNX quantizes to 16 bits."""


@dataclass(frozen=True)
class Quantized:
    """A model that was quantized here.

    Attributes:
        source: the float model.
        path: the quantized one; it is gone when all is done.
        how: settings.
        samples, data: how many samples calibrated it, and what they are.
        saturates: whether its 8-bit products saturate on this machine's processor, which another's need not.
    """

    source: Path
    path: Path
    how: QuantizationConfig
    samples: int
    data: str
    saturates: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self.how), "samples": self.samples, "data": self.data, "saturates": self.saturates}


@contextmanager
def quantized(source: Path, how: QuantizationConfig | None, samples: Samples | None) -> Iterator[Quantized | None]:
    """The quantized model in a temporary folder; None where nothing is to be quantized.

    Raises:
        CollapseError: as :func:`quantize`.
    """
    if how is None or samples is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="opau.") as folder:
        path = Path(folder) / "quantized.onnx"
        quantize(source, path, samples, how)
        eight = how.activations == "uint8" and how.weights == "int8" and not how.reduce_range
        yield Quantized(source, path, how, len(samples), samples.source, eight and saturates_8_bit())


def quantize(source: Path, target: Path, samples: Samples, how: QuantizationConfig) -> None:
    """Write a quantized model; the activations are the learned ones still.

    Args:
        source: a float32 model; it is not touched.
        target: the file to write, in a folder in which temporary files may stand.
        samples: to calibrate with.
        how: settings.

    Raises:
        CollapseError: the model cannot be quantized, or not on these samples.
    """
    model = ir.load(source)
    _check(model, source, how)
    external = save.weight_bytes(model) > save.PROTOBUF_LIMIT
    activations = insert_placeholders(model)
    if not activations:
        raise CollapseError(f"the activations of {source} are in branches, where onnxruntime quantizes nothing")
    staged = target.with_name("calibrated.onnx")
    ir.save(model, staged, external_data=f"{staged.name}.data" if external else None)
    reader = _Reader(model, samples)
    try:
        with _quiet():
            _onnxruntime(staged, target, reader, how, external=external)
    except Exception as error:  # onnxruntime's have no common base class
        raise CollapseError(f"onnxruntime cannot quantize {source} with {samples.source}: {error}") from None
    quantized = ir.load(target)
    remove_placeholders(quantized, activations)
    _keep_outputs(quantized)
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    for key in [k for k in quantized.metadata_props if k.startswith("onnx.")]:
        del quantized.metadata_props[key]
    ir.save(quantized, target, external_data=f"{target.name}.data" if external else None)


def _check(model: ir.Model, source: Path, how: QuantizationConfig) -> None:
    opset = model.graph.opset_imports[""]
    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.all_nodes()):
        raise CollapseError(f"{source} is quantized; leave out --quantize")
    kinds = {v.dtype for n in opau_nodes(model) for v in (*n.inputs[:1], *n.outputs) if v and v.dtype is not None}
    if kinds - {ir.DataType.FLOAT}:
        found = ", ".join(sorted(k.name.lower() for k in kinds))
        raise CollapseError(f"the activations of {source} are {found}; only float32 models are quantized (opau-export --dtype)")
    if "16" in how.activations + how.weights and (opset or 0) < OPSET_16_BIT:
        raise CollapseError(
            f"{source} has opset {opset}; 16-bit quantization needs {OPSET_16_BIT} or newer: opau-export --opset {OPSET_16_BIT}"
        )


def _keep_outputs(model: ir.Model) -> None:
    """The model's results stay float: rounding them would save nothing, and make classes that are close the same."""
    for i, output in enumerate(model.graph.outputs):
        dequantizer = output.producer()
        quantizer = None if dequantizer is None else dequantizer.inputs[0] and dequantizer.inputs[0].producer()
        if dequantizer is None or quantizer is None or quantizer.op_type != "QuantizeLinear":
            continue
        result, own = quantizer.inputs[0], len(output.uses()) == 0
        if dequantizer.op_type != "DequantizeLinear" or result is None or result.producer() is None or result.is_graph_output():
            continue
        name = output.name
        model.graph.outputs[i] = result
        result.type, result.shape = output.type, output.shape
        output.name = f"{name}/rounded"
        result.name = name
        for node in (dequantizer, quantizer):
            if own and not node.outputs[0].uses():
                model.graph.remove(node, safe=True)


def runs(model: ir.Model, samples: Samples) -> list[slice]:
    """The samples of each run: as many as the model takes, where it says; samples that are too few for a run are left out.

    Raises:
        CollapseError: the model takes more at once than there are.
    """
    first = model.graph.inputs[0].shape if model.graph.inputs else None
    fixed = first[0] if first is not None and first.rank() else None
    if not isinstance(fixed, int):
        return [slice(start, start + BATCH) for start in range(0, len(samples), BATCH)]
    if fixed > len(samples):
        raise CollapseError(f"the model takes {fixed} samples at once, {samples.source} holds {len(samples)}")
    return [slice(start, start + fixed) for start in range(0, len(samples) - fixed + 1, fixed)]


class _Reader:
    """Samples as onnxruntime's calibration reads them: batch by batch, so that it need not hold all that it has seen."""

    def __init__(self, model: ir.Model, samples: Samples) -> None:
        self.names = [str(v.name) for v in model.graph.inputs]
        self.runs, self.samples, self.place = runs(model, samples), samples, 0
        self.stop = len(self)

    def __len__(self) -> int:
        return len(self.runs)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The batches that come next."""
        self.place, self.stop = start_index, end_index

    def get_next(self) -> dict[str, Any] | None:
        """One batch; None at the end."""
        if self.place >= self.stop:
            return None
        rows = self.runs[self.place]
        self.place += 1
        return {n: x[rows] for n, x in zip(self.names, self.samples.inputs, strict=True)}


def _onnxruntime(source: Path, target: Path, reader: _Reader, how: QuantizationConfig, *, external: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8, "uint16": QuantType.QUInt16, "int16": QuantType.QInt16}
    methods = {
        "minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile,
    }  # fmt: skip
    quantize_static(
        str(source), str(target), reader, quant_format=QuantFormat.QDQ,
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry, NAME}), per_channel=True,
        reduce_range=how.reduce_range, activation_type=types[how.activations], weight_type=types[how.weights],
        calibrate_method=methods[how.calibration], use_external_data_format=external,
        extra_options={"CalibStridedMinMax": 1, "CalibPercentile": PERCENTILE},
    )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer prints and warns of what has no bearing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
