"""Pass: a per-channel affine directly before an activation becomes part of it.

That is BatchNormalization, Mul, Add, Sub, Div with constants. f(scale x + shift) costs one fused multiply-add in a kernel, and
the affine's own pass over memory is gone. A multiplication by one number directly after it becomes part of the numerator.

Only what keeps the result within the bound of a rounding is absorbed: coefficients stay in the range of the definition, factors
of a size whose products cannot overflow where the operators one by one do not (or do, where these do not), and an offset is not
added to one that cancels it, since the operators lose the digits that the sum of the offsets would keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.core.frozen import Array, Frozen
from opau_onnx.core.spec import COEFFICIENT_FLOOR, COEFFICIENT_LIMIT

BEFORE = ("BatchNormalization", "Mul", "Add", "Sub", "Div")
FACTORS = 2.0**-40, 2.0**40
"""Sizes of factors and offsets that are absorbed, besides zeros."""
CANCELLING = 16.0
"""How many times larger than what they leave, or than x at 1, offsets may be whose sum is taken."""


@dataclass
class Absorbed:
    """An activation with what stood around it.

    Attributes:
        frozen: the function, with its affine.
        x: what it reads now.
        result: what it gives now.
        nodes: those that it takes the place of, besides its own.
    """

    frozen: Frozen
    x: ir.Value
    result: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)


def absorb(node: ir.Node, frozen: Frozen) -> Absorbed:
    """All that can be absorbed around an activation; channels must be known, and nothing else may read what is between."""
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    found = Absorbed(frozen, x, result)
    if x.dtype is None or x.shape is None:
        return found
    while _before(found):
        pass
    while _after(found):
        pass
    return found


def _channels(x: ir.Value, frozen: Frozen) -> tuple[int, int] | None:
    """(axis, size) of the channels: the activation's own axis, or axis 1."""
    assert x.shape is not None
    rank = x.shape.rank()
    axis = frozen.config.axis if frozen.config.groups > 1 else 1
    if not -rank <= axis < rank or not isinstance(x.shape[axis], int):
        return None
    return axis % rank, int(x.shape[axis])


def _before(found: Absorbed) -> bool:
    node = found.x.producer()
    if node is None or node.op_type not in BEFORE or node.domain or len(found.x.uses()) != 1 or found.x.is_graph_output():
        return False
    place = _channels(found.x, found.frozen)
    if place is None or len([v for v in node.outputs if v.uses()]) > 1:
        return False
    read = _batch_norm(node) if node.op_type == "BatchNormalization" else _elementwise(node, place, found.x)
    if read is None:
        return False
    x, scale, shift = read
    if x.shape is None or found.x.shape is None or list(x.shape) != list(found.x.shape) or x.dtype != found.x.dtype:
        return False
    size = place[1]
    if scale.size not in (1, size) or shift.size not in (1, size) or (node.op_type == "BatchNormalization" and place[0] != 1):
        return False
    scale, shift = (np.broadcast_to(v, (size,)) for v in (scale, shift))
    outer, inner = _affine(found.frozen, size)
    # scale' (scale x + shift) + shift'
    merged = outer * scale, outer * shift + inner
    if not _absorbable(np.stack([scale, shift]), np.stack(merged), np.abs(outer * shift) + np.abs(inner)):
        return False
    found.frozen = _with_affine(found.frozen, place[0], *merged)
    found.x = x
    found.nodes.append(node)
    return True


def _absorbable(own: Array, merged: Array, offsets: Array) -> bool:
    """True where an affine (rows scale and shift) may be merged with the next one; ``offsets``: the sizes that are summed."""
    if not (np.isfinite(merged).all() and all(_within(v, *FACTORS) for v in (own, merged))):
        return False
    return bool((offsets <= CANCELLING * np.abs(merged).max(axis=0)).all())


def _within(values: Array, low: float, high: float) -> bool:
    """True where all values are zero or of such a size."""
    sizes = np.abs(values[values != 0])
    return bool(((sizes >= low) & (sizes <= high)).all())


def _affine(frozen: Frozen, size: int) -> tuple[Array, Array]:
    if frozen.affine is None:
        return np.ones(size), np.zeros(size)
    return frozen.affine


def _with_affine(frozen: Frozen, axis: int, scale: Array, shift: Array) -> Frozen:
    """As many groups as channels; shared rows stay shared."""
    size = scale.size
    repeat = size // frozen.config.groups
    rows = [np.repeat(v, repeat, axis=0) if v.ndim == 2 else v for v in (frozen.numerator, frozen.denominator)]
    config = replace(frozen.config, groups=size, axis=frozen.config.axis if frozen.config.groups > 1 else axis)
    return replace(frozen, config=config, numerator=rows[0], denominator=rows[1], affine=(scale, shift))


def _constant(value: ir.Value | None) -> Array | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.array(tensor.numpy()).astype(np.float64)


def _batch_norm(node: ir.Node) -> tuple[ir.Value, Array, Array] | None:
    """y = (x - mean) / sqrt(var + epsilon) * scale + B, at inference."""
    training = node.attributes.get("training_mode")
    scale, bias, mean, var = (_constant(v) for v in node.inputs[1:5])
    x = node.inputs[0]
    if x is None or scale is None or bias is None or mean is None or var is None or (training and training.as_int()):
        return None
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    factor = scale / np.sqrt(var + epsilon)
    return x, factor, bias - mean * factor


def _elementwise(node: ir.Node, place: tuple[int, int], like: ir.Value) -> tuple[ir.Value, Array, Array] | None:
    """Mul, Add, Sub, Div of x with a constant that varies along the channels only."""
    first, second = node.inputs[0], node.inputs[1]
    for x, other, swapped in ((first, second, False), (second, first, True)):
        values = _constant(other)
        if values is None or x is None or (swapped and node.op_type in ("Sub", "Div")):
            continue
        column = _along(values, place, like)
        if column is None or (node.op_type == "Div" and not column.all()):
            return None
        one, zero = np.ones(1), np.zeros(1)
        forms: dict[str, tuple[Array, Array]] = {
            "Mul": (column, zero), "Div": (1 / column, zero), "Add": (one, column), "Sub": (one, -column),
        }  # fmt: skip
        return (x, *forms[node.op_type])
    return None


def _along(values: Array, place: tuple[int, int], like: ir.Value) -> Array | None:
    """The values along the channels; None where they vary along another axis."""
    if values.size == 1:
        return values.reshape(1)
    assert like.shape is not None
    axis, size = place
    after = like.shape.rank() - axis - 1
    shape = (1,) * (like.shape.rank() - values.ndim) + values.shape
    wanted = (1,) * axis + (size,) + (1,) * after
    return values.reshape(-1) if len(shape) == len(wanted) and shape == wanted else None


def _after(found: Absorbed) -> bool:
    """A Mul with constants that reads nothing but the result."""
    uses: Any = list(found.result.uses())
    if len(uses) != 1 or found.result.is_graph_output():
        return False
    node = uses[0].node
    place = _channels(found.x, found.frozen)
    if node.op_type != "Mul" or node.domain or place is None or found.result.shape is None:
        return False
    values = next((v for v in (_constant(i) for i in node.inputs if i is not found.result) if v is not None), None)
    column = None if values is None else _along(values, place, found.x)
    if column is None or column.size > 1 or not column.all():  # a factor for each channel would make rows of the shared ones
        return False
    numerator = found.frozen.numerator * float(column[0])
    if not _within(column, *FACTORS) or not _within(numerator, COEFFICIENT_FLOOR, COEFFICIENT_LIMIT):
        return False
    found.frozen = replace(found.frozen, numerator=numerator)
    found.result = node.outputs[0]
    found.nodes.append(node)
    return True
