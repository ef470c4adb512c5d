"""Example inputs of an ONNX file, made from what it says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch

from opau_onnx.compare.runtime import Runtime
from opau_onnx.errors import ValidationError
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.nn.casting import DTYPES

_INTEGERS = {
    ir.DataType.INT64: (torch.int64, 0, 2), ir.DataType.INT32: (torch.int32, 0, 2), ir.DataType.BOOL: (torch.bool, 0, 2),
    ir.DataType.UINT8: (torch.uint8, 0, 256), ir.DataType.INT8: (torch.int8, -128, 128),
}  # fmt: skip
"""Type of an input -> torch's, and the range that is drawn from: of bytes, which are pixels or codes, all."""
BATCH = 2
"""Size of a first axis that the file leaves open, in the example."""


def example_inputs(
    model: ir.Model, shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]], seed: int
) -> tuple[torch.Tensor, ...]:
    """Random inputs of a model, of normal distribution.

    Args:
        model: whose inputs.
        shapes: of inputs with open axes other than the first, by name or in order.
        seed: of the generator.

    Raises:
        ValidationError: a shape that is open or does not fit, or a dtype that cannot be drawn.
    """
    if not isinstance(shapes, Mapping):
        shapes = {str(v.name): shape for v, shape in zip(model.graph.inputs, shapes, strict=False)}
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
    if value.dtype in NAMES:
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(DTYPES[NAMES[value.dtype]])
    if value.dtype in _INTEGERS:
        kind, low, high = _INTEGERS[value.dtype]
        return torch.randint(low, high, sizes, generator=generator).to(kind)
    raise ValidationError(f"the input {value.name} is of type {value.type}; only numbers can be drawn, so give --data")


def file_runs(runtime: Runtime) -> Callable[[Sequence[torch.Tensor]], bool]:
    """Test that tells for a batch whether the original file runs on it."""

    def runs(batch: Sequence[torch.Tensor]) -> bool:
        try:
            runtime.run(batch)
        except ValidationError:
            return False
        return True

    return runs
