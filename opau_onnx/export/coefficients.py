"""The activations' coefficients in an exported model: one tensor for each torch parameter, in full precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from opau_onnx.graph.nodes import opau_nodes

_FLOAT16S = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def match_fused_weights(model: ir.Model) -> None:
    """Weights of a bfloat16 layer that the exporter's fusion (BatchNormalization into Conv) left in float32 become bfloat16."""
    for node in model.graph.all_nodes():
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.inputs[0].dtype != ir.DataType.BFLOAT16:
            continue
        for position, value in enumerate(node.inputs[1:], start=1):
            if value is not None and value.dtype == ir.DataType.FLOAT and value.const_value is not None:
                node.replace_input_with(position, _converted(model, node, value, ir.DataType.BFLOAT16))


def separate(model: ir.Model, modules: Mapping[ir.Node, str], weights: Mapping[str, Tensor]) -> None:
    """Give every activation its own coefficients again: the exporter merges initializers that hold the same values.

    Parameters that several modules share (tied ones) stay one initializer.
    """
    for node, module in modules.items():
        for position, kind in ((1, "numerator"), (2, "denominator")):
            value, name = node.inputs[position], f"{module}.{kind}" if module else kind
            if name not in weights or value.const_value is None:
                continue
            name = next(other for other, tensor in weights.items() if _tied(tensor, weights[name]))
            if value.name == name:
                continue
            if name not in model.graph.initializers:
                _register(model, name, np.array(value.const_value.numpy()), value.const_value.dtype)
            node.replace_input_with(position, model.graph.initializers[name])
            if not value.uses():
                del model.graph.initializers[str(value.name)]


def _tied(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.numel() > 0 and one.data_ptr() == other.data_ptr() and one.shape == other.shape)


def widen(model: ir.Model, weights: Mapping[str, Tensor]) -> None:
    """Coefficients become float32, or float64 beside a float64 X, whatever the model's dtype is.

    Args:
        model: whose coefficients may have been cast together with all weights.
        weights: before that cast, by name.
    """
    for node in opau_nodes(model):
        wanted = ir.DataType.DOUBLE if node.inputs[0].dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
        for position in (1, 2):
            value = node.inputs[position]
            if value.dtype in _FLOAT16S or (wanted == ir.DataType.DOUBLE and value.dtype == ir.DataType.FLOAT):
                node.replace_input_with(position, _converted(model, node, value, wanted, weights.get(str(value.name))))


def _converted(model: ir.Model, node: ir.Node, value: ir.Value, dtype: ir.DataType, original: Tensor | None = None) -> ir.Value:
    """``value`` in ``dtype``; of an initializer the ``original``'s numbers where it is given."""
    name = f"{value.name}.{dtype.name.lower()}"
    if value.const_value is None:
        cast = ir.node("Cast", [value], attributes={"to": dtype})
        cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = name, dtype, value.shape
        node.graph.insert_before(node, cast)
        return cast.outputs[0]
    numbers = value.const_value.numpy() if original is None else original.detach().double().numpy()
    array = numbers.astype(dtype.numpy())
    if len(value.uses()) == 1:
        value.const_value, value.dtype = ir.tensor(array, name=value.name), dtype
        return value
    if name not in model.graph.initializers:
        _register(model, name, array, dtype)
    return model.graph.initializers[name]


def _register(model: ir.Model, name: str, array: Any, dtype: ir.DataType) -> None:
    tensor = ir.tensor(array, dtype=dtype, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
    model.graph.register_initializer(value)
