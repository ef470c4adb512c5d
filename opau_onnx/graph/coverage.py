"""Nodes that the op library has to cover in an ONNX model, read without onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from opau_onnx.core.spec import DOMAIN, OP_TYPE, OP_TYPES, OPSET_VERSION
from opau_onnx.graph.reading import parse


@dataclass(frozen=True)
class Contents:
    """Nodes and functions of ours in a model.

    Attributes:
        nodes: names of the OPAU nodes, those in branches and in functions too.
        version: the version of our domain that the model imports, None where it does not.
        bodies: whether the model carries a function for them.
        overloads: whether it carries several of one name, told apart by ``overload``.
        external: whether weights are in other files.
        half: an activation whose coefficients are float16 or bfloat16, as converters leave them; "" where there is none.
    """

    nodes: tuple[str, ...]
    version: int | None
    bodies: bool
    overloads: bool = False
    external: bool = False
    half: str = ""

    def uncovered(self) -> str | None:
        """Why the library must not be registered for this model; None where it may be."""
        if not self.nodes:
            return f"the model has no {DOMAIN}::{OP_TYPE} node"
        if self.version is not None and self.version > OPSET_VERSION:
            return f"the model uses version {self.version} of {DOMAIN}; the library has version {OPSET_VERSION}"
        if self.half:
            return (
                f"the coefficients of {self.half} have 16 bits, as converters to float16 leave them; the library takes float32 "
                "ones: let the converter keep them (op_block_list=['OrthogonalPade']), or export with --dtype float16"
            )
        return None


def read(model: Path | bytes | onnx.ModelProto) -> Contents:
    """Look into a model; weights in other files are not read.

    Raises:
        SpecError: it is not an ONNX model.
        OSError: the file cannot be read.
    """
    if not isinstance(model, onnx.ModelProto):
        model = parsed(model if isinstance(model, bytes) else model.read_bytes())
    functions = [f for f in model.functions if f.domain == DOMAIN and f.name in OP_TYPES]
    others = [node for f in model.functions if f not in functions for node in f.node]
    versions = [entry.version for entry in model.opset_import if entry.domain == DOMAIN]
    every = list(_all((*model.graph.node, *others)))
    found = tuple(node.name for node in every if node.domain == DOMAIN and node.op_type in OP_TYPES)
    external = any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    overloads = len({f.name for f in functions}) < len(functions)
    return Contents(found, versions[0] if versions else None, bool(functions), overloads, external, _half(model, every))


def _half(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> str:
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    found = (
        n for n in nodes if (n.domain, n.op_type) == (DOMAIN, OP_TYPE) and any(kinds.get(i) in halves for i in n.input[1:])
    )
    return next((n.name or n.output[0] for n in found), "")


def parsed(content: bytes) -> onnx.ModelProto:
    """The model that bytes hold.

    Raises:
        SpecError: they hold none.
    """
    return parse(content)


def input_names(path: Path) -> list[str]:
    """The inputs of an ONNX file that hold no stored value.

    Raises:
        SpecError: it is not an ONNX model.
        OSError: the file cannot be read.
    """
    graph = parse(path.read_bytes()).graph
    stored = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in stored]


def _all(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all(graph.node)
