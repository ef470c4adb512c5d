"""PyTorch against the exported file: every activation alone, and the whole model on several inputs.

The whole model's tolerance follows from its conditioning, which is measured on the same input: PyTorch's own rounding error,
the distance between its float32 and its float64 result, and how far the float64 result moves when inputs and weights are
nudged by a rounding of float32 (one sample alone may be lucky: a model may pass all it knows through a single mean). Rounding
errors of another runtime are of the same kind, only ordered differently, so :data:`ROUNDING_FACTOR` times the largest is
allowed (scaled by the unit roundoff where the file computes in another dtype), plus a few roundings of the result itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from opau_onnx.compare.activations import ActivationCheck, check_activations
from opau_onnx.compare.opening import open_runtime
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, Comparison, compare
from opau_onnx.errors import ValidationError
from opau_onnx.graph.axes import Axes
from opau_onnx.io.quiet import quiet
from opau_onnx.nn.casting import cast_inputs, cast_model

ROUNDING_FACTOR = 8.0
RESULT_ROUNDINGS = 8.0
NUDGES = 2
SCALES = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class ToleranceConfig:
    """What to run.

    Attributes:
        atol, rtol: tolerances given by the user; None for the measured one.
        samples: rows of the largest random batch.
        seed: of the random inputs.
    """

    atol: float | None = None
    rtol: float | None = None
    samples: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        runtime: what ran the file.
        reference: what it was compared with.
        activations: one check for each activation's node.
        outputs: one comparison for each output and input batch.
        equal: the verdict over all of them.
    """

    runtime: str
    reference: str
    activations: list[ActivationCheck]
    outputs: list[Comparison]

    @property
    def equal(self) -> bool:
        return bool(self.outputs) and all(c.equal for c in self.activations) and all(c.equal for c in self.outputs)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "verdict": "equal" if self.equal else "different",
            "runtime": self.runtime,
            "reference": self.reference,
            "activations": [c.as_dict() for c in self.activations],
            "outputs": [c.as_dict() for c in self.outputs],
        }


def validate(
    source: nn.Module, path: Path, inputs: Sequence[Tensor], axes: Axes, dtype: torch.dtype, options: ToleranceConfig
) -> Validation:
    """Compare a file with the module that it was exported from; quiet about torch's own warnings.

    Args:
        source: the original module, in evaluation mode.
        path: the ONNX file.
        inputs: example inputs.
        axes: the file's dynamic axes.
        dtype: of the file's weights.
        options: what to run.

    Raises:
        ValidationError: no runtime here can run the file, or the inputs do not fit.
    """
    with quiet():
        return _validate(source, path, inputs, axes, dtype, options)


def _validate(
    source: nn.Module, path: Path, inputs: Sequence[Tensor], axes: Axes, dtype: torch.dtype, options: ToleranceConfig
) -> Validation:
    model = ir.load(path)
    expected = len(model.graph.inputs)
    if expected != len(inputs):
        raise ValidationError(f"{path} has {expected} inputs, the model has {len(inputs)}")
    reference = TorchReference(source, dtype, options.seed)
    runtime = open_runtime(path, cast_inputs(inputs, dtype))
    names = [str(v.name) for v in model.graph.outputs]
    outputs: list[Comparison] = []
    for label, batch in batches(inputs, axes, options):
        outputs += _compare_batch(runtime, reference, names, label, cast_inputs(batch, dtype), options)
    return Validation(runtime.description, reference.description, check_activations(model, source), outputs)


def batches(inputs: Sequence[Tensor], axes: Axes, options: ToleranceConfig) -> list[tuple[str, tuple[Tensor, ...]]]:
    """The example input, and random ones of several scales and, where axis 0 is dynamic, batch sizes."""
    generator = torch.Generator().manual_seed(options.seed)
    found = [("example input", tuple(inputs))]
    dynamic = any(0 in names for names in axes.values())
    own = next((x.shape[0] for x in inputs if x.dim()), 1)
    sizes = sorted({1, 2, options.samples}) if dynamic else [own]
    for scale in SCALES:
        for size in sizes:
            batch = tuple(_random(x, size if 0 in axes.get(i, {}) else None, scale, generator) for i, x in enumerate(inputs))
            found.append((f"random, scale {scale:g}, batch {size}", batch))
    return found


def _random(x: Tensor, size: int | None, scale: float, generator: torch.Generator) -> Tensor:
    shape = list(x.shape)
    if size is not None:
        shape[0] = size
    if x.is_floating_point():
        spread = float(x.double().std(correction=0)) if x.numel() else 0.0
        spread = spread if 0.0 < spread < float("inf") else 1.0  # not for a constant, an infinite or a NaN example
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * spread * scale).to(x.dtype)
    if x.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    low, high = (int(x.min()), int(x.max())) if x.numel() else (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(x.dtype)


class Expected(NamedTuple):
    """One output on one batch.

    Attributes:
        values: PyTorch's, in the precision to compare with.
        exact: its float64 result.
        tolerance: absolute, for another runtime's values.
    """

    values: Any
    exact: Any
    tolerance: float


class TorchReference:
    """PyTorch's result in the precision to compare with, and a tolerance for another runtime's.

    ONNX's attributes are float32 (BatchNormalization's epsilon, say), which a float64 model feels: what rounding the modules'
    own numbers so changes is measured too.

    Attributes:
        kind: name of the dtype that the file computes in.
        single, exact: copies of the model in float32 and float64.
        description: what gives the values, for reports.
    """

    def __init__(self, source: nn.Module, dtype: torch.dtype, seed: int) -> None:
        self.kind = str(dtype).removeprefix("torch.")
        self.exact = cast_model(source, torch.float64)
        self.single = cast_model(source, torch.float32)
        self.wide = dtype == torch.float64
        self.rounded = _with_rounded_numbers(self.exact) if self.wide else None
        self.generator = torch.Generator().manual_seed(seed)
        self.description = f"PyTorch {torch.__version__}, {'float64' if self.wide else 'float32'}, CPU"

    def run(self, inputs: Sequence[Tensor]) -> list[tuple[Any, float]]:
        """Per output: the values, and the absolute tolerance for the file's dtype; integers have no rounding of their own."""
        return [(found.values, found.tolerance) for found in self.measure(inputs)]

    def measure(self, inputs: Sequence[Tensor]) -> list[Expected]:
        """Per output: what is expected of another runtime."""
        with torch.no_grad():
            single = flatten(self.single(*cast_inputs(inputs, torch.float32)))
            double = cast_inputs(inputs, torch.float64)
            exact = flatten(self.exact(*double))
            nudged = [flatten(self._nudged(double)) for _ in range(NUDGES)]
            moved = exact if self.rounded is None else flatten(self.rounded(*double))
        unit = UNIT_ROUNDOFF[self.kind]
        found = []
        for i, (s, e, m) in enumerate(zip(single, exact, moved, strict=True)):
            rounding = max(_distance(e, other) for other in (s, *(n[i] for n in nudged)))
            values = (e if self.wide else s).double().numpy()
            result = RESULT_ROUNDINGS * unit * largest(np.abs(values)) if s.is_floating_point() else 0.0
            tolerance = ROUNDING_FACTOR * (rounding * unit / UNIT_ROUNDOFF["float32"] + _distance(e, m)) + result
            found.append(Expected(values, e.double().numpy(), tolerance))
        return found

    def _nudged(self, inputs: Sequence[Tensor]) -> Any:
        """The float64 result with every number moved by a rounding of float32."""
        weights = {**dict(self.exact.named_parameters()), **dict(self.exact.named_buffers())}
        moved = {name: self._nudge(tensor) for name, tensor in weights.items()}
        nudged = tuple(self._nudge(x) for x in inputs)
        # With ties it would leave a module that stands at two places nudged for good (torch 2.13).
        return torch.func.functional_call(self.exact, moved, nudged, tie_weights=False)

    def _nudge(self, values: Tensor) -> Tensor:
        """Whole numbers stay: they are exact in every runtime, and a model may take them for counts or choices."""
        if not values.is_floating_point():
            return values
        noise = torch.rand(values.shape, generator=self.generator, dtype=values.dtype) * 2 - 1
        return torch.where(values == values.round(), values, values * (1 + UNIT_ROUNDOFF["float32"] * noise))


def _distance(one: Tensor, other: Tensor) -> float:
    return largest(np.abs(one.double().numpy() - other.double().numpy()))


def _with_rounded_numbers(model: nn.Module) -> nn.Module:
    """A copy whose modules' float attributes (eps, negative_slope, ..) are rounded to float32."""
    clone = copy.deepcopy(model)
    for module in clone.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float):
                setattr(module, name, float(np.float32(value)))
    return clone


def largest(values: Any) -> float:
    """The largest finite number, 0 where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def flatten(result: Any) -> list[Tensor]:
    """The tensors in what a model returns, in the order of an exported file's outputs."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        result = result.values()
    if isinstance(result, (tuple, list)) or hasattr(result, "__iter__"):
        return [t for part in result for t in flatten(part)]
    raise ValidationError(f"the model returns {type(result).__name__}; expected tensors, or tuples, lists or dicts of them")


def _compare_batch(
    runtime: Runtime,
    reference: TorchReference,
    names: list[str],
    label: str,
    inputs: Sequence[Tensor],
    options: ToleranceConfig,
) -> list[Comparison]:
    actual = runtime.run(inputs)
    expected = reference.run(inputs)
    if len(actual) != len(expected):
        raise ValidationError(f"the file has {len(actual)} outputs, the model returns {len(expected)}")
    found = []
    for name, (want, tolerance), got in zip(names, expected, actual, strict=True):
        found.append(compare_output(f"{name}, {label}", want, got, tolerance, reference.kind, options))
    return found


def compare_output(name: str, want: Any, got: Any, tolerance: float, kind: str, options: ToleranceConfig) -> Comparison:
    """Compare one output; the measured ``tolerance`` counts unless the user gave one. ULP are those of its largest value."""
    measured = options.atol is None and options.rtol is None
    atol = tolerance if measured else options.atol or 0.0
    return compare(name, want, got, kind, atol=atol, rtol=options.rtol or 0.0, ulp_at=largest(np.abs(want)))
