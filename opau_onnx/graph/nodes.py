"""The activation's nodes in an ONNX graph: finding them, their attributes and their configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, FIXED_OP_TYPE, OP_TYPE, Config
from opau_onnx.errors import SpecError

ATTRIBUTES = ("basis", "form", "degrees", "groups", "axis")
"""Written on every node: a kernel cannot read a function's defaults."""


def overload_name(config: Config) -> str:
    """The name that tells the body of ``config`` from the others, e.g. "hermite_e_abs_terms_5_4".

    An identifier: onnx.parser reads no others.
    """
    name = f"{config.basis}_{config.form}_{config.degrees[0]}_{config.degrees[1]}"
    axis = f"{config.axis}" if config.axis >= 0 else f"last{-config.axis}"
    return name if config.groups == 1 else f"{name}_groups{config.groups}_axis{axis}"


def node_attributes(config: Config) -> dict[str, Any]:
    """The attributes of a node of this configuration."""
    return {
        "basis": config.basis,
        "form": config.form,
        "degrees": list(config.degrees),
        "groups": config.groups,
        "axis": config.axis,
    }


def read_config(node: ir.Node) -> Config:
    """The configuration of a learned or a fixed activation.

    Raises:
        SpecError: attributes that are missing, of another type, or that the definition does not allow.
    """
    values = node.attributes
    missing = [name for name in ATTRIBUTES if name not in values]
    if missing:
        raise SpecError(f"the node {node.name} has no attribute {missing[0]!r}; expected {', '.join(ATTRIBUTES)}")
    try:
        degrees = tuple(values["degrees"].as_ints())
        k, l = degrees
        return Config(
            values["basis"].as_string(), values["form"].as_string(), (k, l), values["groups"].as_int(), values["axis"].as_int()
        )
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"the node {node.name} has an attribute that is not as the definition has it: {error}") from None


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The numbers behind a value, a copy in the file's dtype; None where they are computed at run time or the model's input.

    Initializers and Constant nodes are constants, wherever their bytes lie.
    """
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.array(tensor.numpy())


def attribute_tensor(node: ir.Node, name: str) -> npt.NDArray[Any]:
    """The numbers of a fixed activation's attribute, in the file's dtype; empty where it is left out."""
    return np.array(node.attributes[name].as_tensor().numpy()) if name in node.attributes else np.zeros(0)


def read_coefficients(node: ir.Node) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """(numerator, denominator) of a learned or a fixed activation, in the file's dtype; None where they are no constants."""
    if node.op_type == FIXED_OP_TYPE:
        return attribute_tensor(node, "numerator"), attribute_tensor(node, "denominator")
    numerator, denominator = (constant(value) for value in node.inputs[1:3])
    return None if numerator is None or denominator is None else (numerator, denominator)


def in_double(node: ir.Node) -> bool:
    """True where the coefficients of a learned activation are float64."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None:
        return False
    tensor = ir.convenience.get_const_tensor(value)
    return bool((value.dtype if tensor is None else tensor.dtype) == ir.DataType.DOUBLE)


def opau_nodes(model: ir.Model, op_types: Sequence[str] = (OP_TYPE,)) -> list[ir.Node]:
    """The activation's nodes, in the order of the graph, those in subgraphs included; the learned ones, unless told."""
    return [n for n in model.graph.all_nodes() if n.domain == DOMAIN and n.op_type in op_types]
