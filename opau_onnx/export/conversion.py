"""torch.export program -> ONNX model with ``ai.opau`` nodes and their functions, clean of the exporting machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir
import torch

from opau_onnx.core.spec import DOMAIN, OP_TYPE, OPSET_VERSION, Config
from opau_onnx.errors import ExportError
from opau_onnx.export import coefficients
from opau_onnx.graph import function
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import in_double, node_attributes, opau_nodes, overload_name, read_config
from opau_onnx.io.quiet import quiet

IR_VERSION = 10
"""The first with overloads of functions."""


def build_model(
    program: torch.export.ExportedProgram,
    opset: int,
    axis_names: list[dict[int, str]],
    output_names: list[str] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> ir.Model:
    """Convert a program.

    Args:
        program: holds ``opau::orthogonal_pade`` nodes.
        opset: version of ONNX's default domain.
        axis_names: per input, axis -> name of a dynamic axis.
        output_names: of the outputs; None for "output", or "output_0", "output_1", ..
        weights: the model's own, by name, before they were cast to the program's dtype; None for the program's.

    Raises:
        ExportError: an operator that the exporter does not know, and the like.
    """
    try:
        with quiet():
            kept = program.run_decompositions({torch.ops.opau.orthogonal_pade.default: _as_node})
            exported = torch.onnx.export(kept, (), dynamo=True, opset_version=opset, verbose=False)
    except Exception as error:
        raise ExportError(f"torch.onnx cannot export the model: {type(error).__name__}: {error}") from error
    assert exported is not None
    model: ir.Model = exported.model
    modules = _record_modules(model, program)
    _clean(model)
    _rename_axes(model, axis_names)
    _rename_values(model, modules, [str(name) for name in program.graph_signature.user_inputs], output_names)
    coefficients.match_fused_weights(model)
    coefficients.separate(model, modules, program.state_dict)
    coefficients.widen(model, program.state_dict if weights is None else weights)
    _attach_functions(model, opset)
    return model


def _as_node(
    x: torch.Tensor, numerator: torch.Tensor, denominator: torch.Tensor, basis: str, form: str, degrees: list[int],
    groups: int, axis: int,
) -> torch.Tensor:  # fmt: skip
    config = Config(basis, form, (degrees[0], degrees[1]), groups, axis)
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OP_TYPE}",
        (x, numerator, denominator),
        node_attributes(config),
        dtype=x.dtype,
        shape=x.shape,
        version=OPSET_VERSION,
    )


def _record_modules(model: ir.Model, program: torch.export.ExportedProgram) -> dict[ir.Node, str]:
    """The torch module of each node, as the exporter recorded it.

    Newer opsets than onnxscript converts to lose that record: then as torch.export did, where no node was added or dropped, or
    else the module that has the node's numerator.
    """
    calls = [n for n in program.graph.nodes if n.target is torch.ops.opau.orthogonal_pade.default]
    nodes = opau_nodes(model)
    names = {}
    for i, node in enumerate(nodes):
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        name = scopes[-2] if len(scopes) > 1 else ""
        if not scopes and len(calls) == len(nodes):
            name = [path for path, _ in (calls[i].meta.get("nn_module_stack") or {"": ("", "")}).values()][-1]
        module, _, kind = str(node.inputs[1].name).rpartition(".")
        names[node] = name or (module if kind == "numerator" else "")
    return names


def _clean(model: ir.Model) -> None:
    """Drop what the exporter wrote about its own work: stack traces with paths of this machine, and texts."""
    model.metadata_props.clear()
    model.doc_string = None
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
            value.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None


def _rename_axes(model: ir.Model, axis_names: list[dict[int, str]]) -> None:
    """torch's symbols (s31) -> the names asked for; a symbol without a name gets dim_0, dim_1, .. in order."""
    symbols: dict[str, str] = {}
    for value, names in zip(model.graph.inputs, axis_names, strict=False):
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value and axis in names:
                symbols.setdefault(dim.value, names[axis])

    def renamed(text: str) -> str:
        return re.sub(
            r"\b[su]\d+\b",
            lambda m: symbols.setdefault(m[0], f"dim_{sum(v.startswith('dim_') for v in symbols.values())}"),
            text,
        )

    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([renamed(d.value) if isinstance(d, ir.SymbolicDim) and d.value else d for d in value.shape])


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
    for node in model.graph.all_nodes():
        yield from node.outputs


def _rename_values(
    model: ir.Model, modules: dict[ir.Node, str], input_names: list[str], output_names: list[str] | None
) -> None:
    """Speaking names: inputs after the arguments, nodes and their results after the torch module, outputs "output"."""
    outputs = list(model.graph.outputs)
    for value, name in zip(model.graph.inputs, input_names, strict=True):
        value.name = name
    taken = {v.name for v in model.graph.inputs}
    plain = ["output"] if len(outputs) == 1 else [f"output_{i}" for i in range(len(outputs))]
    wanted = output_names if output_names and len(output_names) == len(outputs) else plain
    for value, name in zip(outputs, wanted, strict=True):
        if value.producer() is not None and name not in taken and outputs.count(value) == 1:
            value.name = name
    calls: dict[str, int] = {}
    for node, module in modules.items():
        node.metadata_props[MODULE] = module
        count = calls[module] = calls.get(module, -1) + 1
        suffix = f"_{count}" if count else ""
        node.name = f"{module}/{OP_TYPE}{suffix}" if module else f"{OP_TYPE}{suffix}"
        if node.outputs[0] not in outputs:
            node.outputs[0].name = f"{node.name}:Y"


def _attach_functions(model: ir.Model, opset: int) -> None:
    model.functions.clear()
    double = {overload_name(read_config(node)) for node in opau_nodes(model) if in_double(node)}
    for node in opau_nodes(model):
        config = read_config(node)
        node.overload = overload_name(config)
        node.version = None
        if (DOMAIN, OP_TYPE, node.overload) not in model.functions:
            body = function.build(config, opset, double=node.overload in double)
            model.functions[body.identifier()] = body
    if model.functions:
        model.graph.opset_imports[DOMAIN] = OPSET_VERSION
    else:
        model.graph.opset_imports.pop(DOMAIN, None)
    model.ir_version = max(model.ir_version, IR_VERSION)
