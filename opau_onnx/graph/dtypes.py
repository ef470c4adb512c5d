"""Floating dtypes of ONNX tensors, by the names that torch and numpy give them."""

from __future__ import annotations

import onnx_ir as ir

NAMES: dict[ir.DataType | None, str] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
}
"""The dtypes that an activation may have."""
_FINEST_FIRST = ("float64", "float32", "float16", "bfloat16")


def coarsest(model: ir.Model) -> str:
    """The coarsest floating dtype of a model's inputs and outputs, "float32" where there is none."""
    kinds = [NAMES[v.dtype] for v in (*model.graph.inputs, *model.graph.outputs) if v.dtype in NAMES]
    return max(kinds, key=_FINEST_FIRST.index, default="float32")
