"""One name for one value: ONNX graphs are in SSA form, whatever names modules, arguments and outputs bring."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from opau_onnx.errors import ExportError


def make_unique(model: ir.Model) -> bool:
    """Rename values until no two of a graph and its subgraphs share a name; True where anything changed.

    Names of the interface stay: those of inputs, then of outputs, then of weights; what was made inside gives way.
    """
    taken: set[str] = set()
    changed = False
    graph = model.graph
    interface = [*graph.inputs, *graph.outputs]
    seen: set[int] = set()
    for value in interface:
        if id(value) not in seen:
            seen.add(id(value))
            changed |= _settle(value, taken)
    for name, value in list(graph.initializers.items()):
        if id(value) in seen:  # an initializer that is an input too
            continue
        seen.add(id(value))
        if value.name in taken:
            del graph.initializers[name]
            changed |= _settle(value, taken)
            graph.register_initializer(value)
        else:
            taken.add(str(value.name))
    inner = [value for part in model.graphs() if part is not graph for value in (*part.inputs, *part.initializers.values())]
    for value in [*inner, *(v for node in graph.all_nodes() for v in node.outputs)]:
        if id(value) not in seen and value.name:
            seen.add(id(value))
            changed |= _settle(value, taken)
    return changed


def rename(model: ir.Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> None:
    """Give a model's inputs and outputs other names; None leaves them.

    Raises:
        ExportError: not as many names as there are, or one twice.
    """
    for what, values, names in (("input", model.graph.inputs, inputs), ("output", model.graph.outputs, outputs)):
        if names is None:
            continue
        own = [str(v.name) for v in values]
        if len(names) != len(own) or not all(names):
            raise ExportError(f"{len(names)} {what} names are given ({', '.join(names)}); the model has {', '.join(own)}")
        for value, name in zip(values, names, strict=True):
            value.name = name
    names = [str(v.name) for v in (*model.graph.inputs, *dict.fromkeys(model.graph.outputs)) if v.name]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice and (inputs is not None or outputs is not None):
        raise ExportError(f"the name {twice[0]!r} is given to two inputs or outputs; each needs its own")


def _settle(value: ir.Value, taken: set[str]) -> bool:
    """Give a value a name that is free, its own where it is."""
    name, count = str(value.name), 1
    while name in taken:
        name, count = f"{value.name}.{count}", count + 1
    taken.add(name)
    if name == value.name:
        return False
    if value.const_value is not None and hasattr(value.const_value, "name"):
        value.const_value.name = name
    value.name = name
    return True
