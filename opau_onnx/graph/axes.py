"""Dynamic axes: which axes of which input have a name instead of a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from torch import Tensor

Axes = dict[int, dict[int, str]]
"""Input position -> axis -> name."""


def default_axes(inputs: Sequence[Tensor]) -> Axes:
    """A dynamic axis 0, named "batch", of every input that has one."""
    return {i: {0: "batch"} for i, x in enumerate(inputs) if x.dim()}


def open_axes(model: ir.Model) -> Axes:
    """The dynamic axes of a file's inputs; inputs without any have an empty entry."""
    return {
        i: {a: str(d) for a, d in enumerate(value.shape or ()) if isinstance(d, ir.SymbolicDim)}
        for i, value in enumerate(model.graph.inputs)
    }
