"""Where an ONNX file computes each activation, by the names that the exporter recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, FIXED_OP_TYPE, OP_TYPES, Config
from opau_onnx.errors import SpecError
from opau_onnx.graph.metadata import METADATA, MODULE
from opau_onnx.graph.nodes import opau_nodes, read_config


@dataclass(frozen=True)
class Approximation:
    """A file's record of an activation that was approximated on purpose: its largest error on a range of inputs."""

    tolerance: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"approximated on purpose, by up to {self.tolerance:g} for inputs from {self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True, eq=False)
class ActivationLocation:
    """One activation in a file.

    Attributes:
        node: its name; of a collapsed one the name that it had.
        module: the torch module that it says it comes from.
        kind: "learned", "fused" (fixed coefficients, one node) or "operators" (standard ones).
        config: what the node says it computes; None where its attributes say nothing that can be read.
        x, y: what the module takes and gives; None where the file does not hold it, for the reason in ``reason``.
        reason: what cannot be matched, and why; "" where all can.
        coefficients: the inputs that hold them, where they are inputs.
        approximation: what opau-collapse --tolerance said; None for a file that is exact up to rounding.
    """

    node: str
    module: str
    kind: str
    config: Config | None
    x: ir.Value | None
    y: ir.Value | None
    reason: str = ""
    coefficients: tuple[ir.Value, ...] = ()
    approximation: Approximation | None = None


def find_activations(model: ir.Model) -> list[ActivationLocation]:
    """The activations in the order of the graph; those in branches and loops come last, without values."""
    records = {str(r.get("node")): r for r in collapse_records(model)}
    found: list[ActivationLocation] = []
    groups: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in OP_TYPES:
            found.append(_one_node(node, records.get(str(node.name), {})))
        elif MODULE in node.metadata_props:
            name = str(node.name).rpartition("/")[0]
            if name in records:
                if name not in groups:
                    found.append(ActivationLocation(name, "", "operators", None, None, None))  # keeps its place
                groups.setdefault(name, []).append(node)
    found = [s if s.node not in groups else _operators(groups[s.node], records[s.node]) for s in found]
    inner = [n for n in opau_nodes(model, OP_TYPES) if n.graph is not model.graph]
    found += [_inside(node) for node in inner]
    nameless = [records[name] for name in records if name not in {s.node for s in found}]
    return found + [_nameless(record) for record in nameless]


def collapsed_form(model: ir.Model) -> str | None:
    """The form that opau-collapse gave the file, if it did."""
    text = model.metadata_props.get(METADATA)
    content = _json(text) if text else None
    return str(content.get("form")) if isinstance(content, dict) else None


def collapse_records(model: ir.Model) -> list[dict[str, Any]]:
    """Records of opau-collapse for each activation; [] for a file that it did not make."""
    content = _json(model.metadata_props.get(METADATA, ""))
    found = content.get("activations") if isinstance(content, dict) else None
    return [r for r in found if isinstance(r, dict)] if isinstance(found, list) else []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _config(node: ir.Node) -> Config | None:
    try:
        return read_config(node)
    except SpecError:
        return None


def _one_node(node: ir.Node, record: dict[str, Any]) -> ActivationLocation:
    kind = "fused" if node.op_type == FIXED_OP_TYPE else "learned"
    x, y, reason = _around(node.inputs[0], node.outputs[0], record)
    coefficients = tuple(v for v in node.inputs[1:3] if v is not None)
    return ActivationLocation(
        str(node.name), node.metadata_props.get(MODULE, ""), kind, _config(node), x, y, reason, coefficients
    )


def _around(x: ir.Value | None, y: ir.Value | None, record: dict[str, Any]) -> tuple[ir.Value | None, ir.Value | None, str]:
    """Input and output of the module, as far as absorbed operators left them in the file."""
    absorbed = [str(name) for name in record.get("absorbed") or ()]
    if not absorbed:
        return x, y, ""
    # A Mul may have stood before the activation or after it.
    return None, None if "Mul" in absorbed else y, f"it holds the {' and the '.join(absorbed)} around it too"


def _operators(nodes: list[ir.Node], record: dict[str, Any]) -> ActivationLocation:
    name, module = str(record.get("node")), nodes[0].metadata_props.get(MODULE, "")
    inside = set(nodes)
    entries = _distinct(
        v for n in nodes for v in n.inputs if v is not None and v.producer() not in inside and v.const_value is None
    )
    results = _distinct(
        v for n in nodes for v in n.outputs if v.is_graph_output() or any(use.node not in inside for use in v.uses())
    )
    if len(entries) != 1 or len(results) != 1:
        reason = f"its operators have {len(entries)} inputs and {len(results)} results; expected one each"
        return ActivationLocation(name, module, "operators", None, None, None, reason)
    x, y, reason = _around(entries[0], results[0], record)
    return ActivationLocation(name, module, "operators", None, x, y, reason, approximation=_approximation(record))


def _approximation(record: dict[str, Any]) -> Approximation | None:
    said = record.get("approximation")
    try:
        low, high = (float(v) for v in said["range"])  # type: ignore[index]
        return Approximation(float(said["tolerance"]), low, high)  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return None


def _nameless(record: dict[str, Any]) -> ActivationLocation:
    reason = "no operator in the file bears its name, so it cannot be looked at"
    return ActivationLocation(str(record.get("node")), str(record.get("module", "")), "operators", None, None, None, reason)


def _inside(node: ir.Node) -> ActivationLocation:
    reason = "it stands in a branch or loop, where no value can be looked at"
    kind = "fused" if node.op_type == FIXED_OP_TYPE else "learned"
    return ActivationLocation(str(node.name), node.metadata_props.get(MODULE, ""), kind, _config(node), None, None, reason)


def _distinct(values: Iterable[ir.Value]) -> list[ir.Value]:
    return list(dict.fromkeys(values))
