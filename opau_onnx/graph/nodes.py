"""The activation's nodes in an ONNX graph: finding them, their attributes and their configuration."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, OP_TYPE, Config

ATTRIBUTES = ("basis", "form", "degrees", "groups", "axis")
"""Written on every node: a kernel cannot read a function's defaults."""


def overload_name(config: Config) -> str:
    """The name that tells the body of ``config`` from the others, e.g. "hermite_e-abs_terms-5-4"."""
    name = f"{config.basis}-{config.form}-{config.degrees[0]}-{config.degrees[1]}"
    return name if config.groups == 1 else f"{name}-groups{config.groups}-axis{config.axis}"


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
    """The configuration of a node.

    Raises:
        SpecError: attributes that the definition does not allow.
    """
    values = node.attributes
    degrees = tuple(values["degrees"].as_ints())
    return Config(
        values["basis"].as_string(),
        values["form"].as_string(),
        (degrees[0], degrees[1]),
        values["groups"].as_int(),
        values["axis"].as_int(),
    )


def opau_nodes(model: ir.Model) -> list[ir.Node]:
    """The activation's nodes, in the order of the graph, those in subgraphs included."""
    return [n for n in model.graph.all_nodes() if n.domain == DOMAIN and n.op_type == OP_TYPE]
