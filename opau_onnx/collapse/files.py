"""The collapsed file against the file that it came from, as a whole; no PyTorch model is needed.

The tolerance is measured as in :mod:`opau_onnx.compare.validation`: how far the original's outputs move when its weights and
inputs are nudged by a rounding of their dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.compare.activations import TORCH
from opau_onnx.compare.opening import open_model, open_runtime
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, Comparison, compare
from opau_onnx.compare.validation import NUDGES, RESULT_ROUNDINGS, ROUNDING_FACTOR, ToleranceConfig, batches
from opau_onnx.errors import ValidationError
from opau_onnx.graph.axes import open_axes

_INTEGERS = {
    ir.DataType.INT64: (torch.int64, 0, 2), ir.DataType.INT32: (torch.int32, 0, 2), ir.DataType.BOOL: (torch.bool, 0, 2),
    ir.DataType.UINT8: (torch.uint8, 0, 256), ir.DataType.INT8: (torch.int8, -128, 128),
}  # fmt: skip
"""Type of an input -> torch's, and the range that is drawn from: of bytes, which are pixels or codes, all."""
BATCH = 2
"""Size of a first axis that the file leaves open, in the example."""


def example_inputs(model: ir.Model, shapes: Mapping[str, Sequence[int]], seed: int) -> tuple[torch.Tensor, ...]:
    """Random inputs of a model, of normal distribution.

    Args:
        model: whose inputs.
        shapes: of inputs with open axes other than the first, by name.
        seed: of the generator.

    Raises:
        ValidationError: a shape that is open or does not fit, or a dtype that cannot be drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    unknown = sorted(set(shapes) - {str(v.name) for v in model.graph.inputs})
    if unknown:
        names = ", ".join(str(v.name) for v in model.graph.inputs)
        raise ValidationError(f"a shape is given for {', '.join(unknown)}; the inputs of the model are {names}")
    return tuple(_example(value, shapes.get(str(value.name)), generator) for value in model.graph.inputs)


def _example(value: ir.Value, given: Sequence[int] | None, generator: torch.Generator) -> torch.Tensor:
    own = None if value.shape is None else list(value.shape)
    shape = list(given) if given is not None else own
    if shape is not None and given is None:
        shape = [BATCH if axis == 0 and not isinstance(n, int) else n for axis, n in enumerate(shape)]
    fits = own is None or (shape is not None and len(own) == len(shape))
    fits = fits and all(not isinstance(a, int) or a == b for a, b in zip(own or (), shape or (), strict=False))
    if shape is None or not fits or not all(isinstance(n, int) for n in shape):
        raise ValidationError(
            f"the input {value.name} has shape {value.shape}{f', not {tuple(given)}' if given is not None else ''}; "
            f"give one that fits: --input-shape {value.name}:1,3,224,224"
        )
    sizes = [int(n) for n in shape]
    if value.dtype in TORCH:
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(TORCH[value.dtype])
    if value.dtype in _INTEGERS:
        kind, low, high = _INTEGERS[value.dtype]
        return torch.randint(low, high, sizes, generator=generator).to(kind)
    raise ValidationError(f"the input {value.name} is of type {value.type}; only numbers can be drawn, so give --data")


def compare_files(
    before: Path, after: Path, inputs: Sequence[torch.Tensor], options: ToleranceConfig
) -> tuple[str, str, list[Comparison]]:
    """(what ran the collapsed file, what ran the original, one comparison for each output and batch).

    Raises:
        ValidationError: a file that no runtime here can run.
    """
    model = ir.load(before)
    outputs = [str(v.name) for v in model.graph.outputs]
    axes = open_axes(model)
    original, collapsed = open_runtime(before, inputs), open_runtime(after, inputs)
    moved = [_nudged(before, inputs, options.seed + n) for n in range(NUDGES)]
    kind = _kind(model)
    found = []
    for label, batch in batches(inputs, axes, options):
        found += _compare(original, collapsed, moved, outputs, label, batch, kind, options)
    return collapsed.description, f"the original file, {original.description}", found


def _kind(model: ir.Model) -> str:
    """The coarsest float dtype of the inputs and outputs."""
    values = (*model.graph.inputs, *model.graph.outputs)
    kinds = [str(TORCH[v.dtype]).removeprefix("torch.") for v in values if v.dtype in TORCH]
    return max(kinds, key=lambda k: UNIT_ROUNDOFF[k], default="float32")


def _compare(
    original: Runtime, collapsed: Runtime, moved: Sequence[Runtime], names: list[str], label: str,
    batch: Sequence[torch.Tensor], kind: str, options: ToleranceConfig,
) -> list[Comparison]:  # fmt: skip
    expected, actual = original.run(batch), collapsed.run(batch)
    shifted = [runtime.run([_nudge_tensor(x, n) for x in batch]) for n, runtime in enumerate(moved)]
    found = []
    for i, (name, want, got) in enumerate(zip(names, expected, actual, strict=True)):
        want = np.asarray(want, dtype=np.float64)
        size = _largest(np.abs(want))
        rounding = max(_largest(np.abs(np.asarray(s[i], dtype=np.float64) - want)) for s in shifted)
        measured = ROUNDING_FACTOR * rounding + RESULT_ROUNDINGS * UNIT_ROUNDOFF[kind] * size
        own = options.atol is None and options.rtol is None
        atol = measured if own else options.atol or 0.0
        found.append(compare(f"{name}, {label}", want, got, kind, atol=atol, rtol=options.rtol or 0.0, ulp_at=size))
    return found


def _largest(values: Any) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _nudged(path: Path, inputs: Sequence[torch.Tensor], seed: int) -> Runtime:
    """The model with every stored number moved by a rounding of its dtype; whole numbers stay, as they may be counts."""
    model = ir.load(path)
    rng = np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.dtype in TORCH:
            kind = str(TORCH[value.dtype]).removeprefix("torch.")
            numbers = np.array(value.const_value.numpy())
            moved = numbers.astype(np.float64) * (1 + UNIT_ROUNDOFF[kind] * rng.uniform(-1, 1, numbers.shape))
            # A whole unit where the nudge would be rounded away.
            step = np.nextafter(numbers.astype(np.float32), np.float32(np.inf)) if kind == "float32" else moved
            moved = np.where(rng.random(numbers.shape) < 0.5, moved, step)
            moved = np.where(numbers == np.round(numbers.astype(np.float64)), numbers, moved)
            value.const_value = ir.tensor(moved.astype(numbers.dtype), name=value.name)
    return open_model(model, inputs)


def _nudge_tensor(x: torch.Tensor, seed: int) -> torch.Tensor:
    if not x.is_floating_point():
        return x
    kind = str(x.dtype).removeprefix("torch.")
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    wide = x.double()
    return torch.where(wide == wide.round(), wide, wide * (1 + 2 * UNIT_ROUNDOFF[kind] * noise)).to(x.dtype)
