"""Activations of an ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, OP_TYPES
from opau_onnx.errors import LoadError, OpauError, SpecError
from opau_onnx.graph.lookup import ActivationLocation, collapse_records, collapsed_form, find_activations
from opau_onnx.graph.nodes import opau_nodes, read_coefficients, read_config
from opau_onnx.inspect.result import FUNCTION, KERNEL, STANDARD, InspectedActivation, InspectResult, extents
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.session import create_session, quiet_options

_INNER = "it stands in a branch or loop, where onnxruntime keeps no record of what runs it"


def of_file(path: Path) -> InspectResult:
    """The activations of a file, learned, fused and collapsed ones.

    Raises:
        LoadError: it cannot be read.
    """
    if not path.is_file():
        raise LoadError(f"{path} does not exist; expected a model")
    try:
        model = ir.load(path)
        nodes, renamed = _distinct_names(model)
        records = {str(r.get("node")): r for r in collapse_records(model)}
        found = [_activation(site, nodes.get(site.node), records.get(site.node)) for site in find_activations(model)]
    except OSError:
        raise
    except Exception as error:  # protobuf's own types, weights that are missing
        raise LoadError(f"{path} is not a readable ONNX file: {type(error).__name__}: {error}") from None
    inner = {name for name, node in nodes.items() if node.graph is not model.graph}
    notes: list[str] = []
    others = [f for f in model.functions.values() if f.domain != DOMAIN]
    hidden = sum(n.domain == DOMAIN and n.op_type in OP_TYPES for f in others for n in f.all_nodes())
    if hidden:
        notes.append(f"{hidden} activations stand inside functions of the model and are not listed; inline these functions")
    runtime = "nothing: there is no activation"
    if found:
        runtime, found, more = _assigned(path, found, list(nodes), inner, renamed)
        notes += more
    return InspectResult(path.name, "onnx", collapsed_form(model), tuple(a for _, a in found), runtime, tuple(notes))


_Named = tuple[str, InspectedActivation]
"""An activation with the name of its node."""


def _distinct_names(model: ir.Model) -> tuple[dict[str, ir.Node], set[str]]:
    """The nodes by name, and the names that are made up here since the file gives none or one twice."""
    nodes: dict[str, ir.Node] = {}
    renamed = set()
    for i, node in enumerate(opau_nodes(model, OP_TYPES)):
        if not node.name or node.name in nodes:
            node.name = f"{node.name or node.op_type}#{i}"
            renamed.add(node.name)
        nodes[node.name] = node
    return nodes, renamed


def _activation(site: ActivationLocation, node: ir.Node | None, record: dict[str, Any] | None) -> _Named:
    notes = []
    dtype, numerator, denominator = "", None, None
    if node is not None:
        stored = read_coefficients(node)
        if stored is None:
            notes.append("its coefficients are computed at run time, or are inputs of the model")
        else:
            dtype, numerator, denominator, bad = extents(*stored)
            notes += bad
        try:
            config = read_config(node)
            if stored is not None:
                config.check_coefficients(stored[0].shape, stored[1].shape)
        except SpecError as error:
            notes.append(f"not as the definition has it: {error}")
        if "scale" in node.attributes:
            notes.append("of scale · x + shift, which it absorbed")
    else:
        notes += [site.reason] if site.reason else []
        notes += _said(record or {})
    if site.approximation is not None:
        notes.append(str(site.approximation))
    runs = STANDARD if site.kind == "operators" else ""
    name = site.module or site.node
    return site.node, InspectedActivation(name, site.kind, site.config, dtype, numerator, denominator, runs, tuple(notes))


def _said(record: dict[str, Any]) -> list[str]:
    """Description of operators from the record of opau-collapse."""
    try:
        k, l = record["degrees"]
        what = f"{record['basis']}, {record['form']}, degrees ({k}, {l}), {record['groups']} group(s)"
        return [f"{what}, as {record['operators']} operators: {record['evaluation']}"]
    except (KeyError, TypeError, ValueError):
        return []


def _assigned(
    path: Path, found: list[_Named], names: list[str], inner: set[str], renamed: set[str]
) -> tuple[str, list[_Named], list[str]]:
    """Provider and implementation of each node, from the record of a session."""
    import onnxruntime

    said = f"onnxruntime {onnxruntime.__version__} on the CPU"
    if not names:
        return said, found, []
    try:
        session: Any = create_session(path, "cpu", session_options=quiet_options(), optimize="none")
        assigned = assignments(session)
    except Exception as error:  # onnxruntime's own errors, and those of the library
        kind = "" if isinstance(error, OpauError) else f"{type(error).__name__}: "
        reason = f"{said} refuses the model: {kind}{error}".strip()
        return said, found, [reason.splitlines()[0]]
    kernels = {name for a in assigned if a.implementation == "kernel" for name in a.nodes}
    bodies = any(a.implementation == "function" for a in assigned)
    done = []
    for node, activation in found:
        if activation.runs:
            done.append((node, activation))
        elif node in inner:
            done.append((node, replace(activation, notes=(*activation.notes, _INNER))))
        elif node in kernels or (node in renamed and kernels):
            done.append((node, replace(activation, runs=KERNEL)))
        elif bodies:
            done.append((node, replace(activation, runs=FUNCTION)))
        else:
            note = "onnxruntime's record does not name it: its result is used nowhere"
            done.append((node, replace(activation, notes=(*activation.notes, note))))
    return said, done, _why_bodies() if bodies else []


def _why_bodies() -> list[str]:
    from opau_onnx.errors import LibraryError
    from opau_onnx.native.library import get_library_path

    try:
        get_library_path()
    except LibraryError as error:
        return [f"function bodies are slow: {error}"]
    return []
