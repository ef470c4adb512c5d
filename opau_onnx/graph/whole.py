"""Files as other tools leave them, made whole: what our readers rely on is put back, or found in the graph instead of in names.

Tools drop functions that they do not know, node names and metadata; list initializers as inputs; copy subgraphs with their
names; leave out attributes that have a default. Each change is told.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from opau_onnx.core.spec import DOMAIN, OP_TYPE, OP_TYPES, OPSET_VERSION, Config
from opau_onnx.errors import LoadError, SpecError
from opau_onnx.graph import function
from opau_onnx.graph.nodes import read_config
from opau_onnx.graph.reading import parse, read_bytes
from opau_onnx.graph.save import PROTOBUF_LIMIT, weight_bytes

logger = logging.getLogger("opau_onnx")
DTYPE = "opau.dtype"
_FLOATS = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}  # fmt: skip
_OVERLOADS = 10
"""The first IR version with overloads of functions."""


def read_model(path: Path) -> ir.Model:
    """The model of a file, made whole; weights in other files are read when they are looked at.

    Raises:
        LoadError: there is no such file, it cannot be read, or it is no ONNX model.
    """
    proto = _read(path)
    for change in [*make_whole(proto), *_linked(proto, path)]:
        logger.warning("%s: %s", path, change)
    return _model(proto, path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The file, or where it has to be made whole a copy of that name which lives as long as the context; raises as
    :func:`read_model`."""
    proto = _read(path)
    changes = [*make_whole(proto), *_linked(proto, path)]
    if not changes:
        _model(proto, path)
        yield path
        return
    for change in changes:
        logger.warning("%s: %s", path, change)
    with tempfile.TemporaryDirectory(prefix="opau-") as folder:
        copy = Path(folder) / path.name
        model = _model(proto, path)
        try:
            large = weight_bytes(model) > PROTOBUF_LIMIT
            ir.save(model, copy, external_data=f"{copy.name}.data" if large or _external(proto) else None)
        except Exception as error:  # onnx-ir's own types, or the file system's
            raise LoadError(f"{path} cannot be made whole: {type(error).__name__}: {error}") from None
        yield copy


def make_whole(proto: onnx.ModelProto) -> list[str]:
    """Change a model in place; what was changed, in words.

    Raises:
        LoadError: a node of ours has attributes that the definition does not allow.
    """
    renamed = _prefixes(proto)
    nodes = [n for n in _nodes(proto) if n.domain == DOMAIN and n.op_type in OP_TYPES]
    steps = (renamed, _inputs(proto), _attributes(nodes), _names(nodes), _bodies(proto, nodes), _dtype(proto, nodes))
    return [text for text in steps if text]


def _read(path: Path) -> onnx.ModelProto:
    try:
        return parse(read_bytes(path))
    except SpecError as error:
        raise LoadError(f"{path} is not a readable ONNX file: {error}") from None


def _model(proto: onnx.ModelProto, path: Path) -> ir.Model:
    try:
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        # What onnx-ir reads and cannot write again would fail later, in whatever writes it.
        for body in model.functions.values():
            ir.serde.serialize_function(body)
        for node in model.graph:
            ir.serde.serialize_node(node)
        for value in (*model.graph.inputs, *model.graph.outputs):
            ir.serde.serialize_value(value)
    except Exception as error:  # onnx-ir's own types
        raise LoadError(f"{path} is not a readable ONNX file: {type(error).__name__}: {error}") from None
    return model


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*proto.graph.node, *(n for f in proto.functions for n in f.node if (f.domain, f.name) != (DOMAIN, OP_TYPE))]
    while pending:
        node = pending.pop(0)
        yield node
        for attribute in node.attribute:
            graphs = ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
            pending = [*(n for g in graphs for n in g.node), *pending]


def _prefixes(proto: onnx.ModelProto) -> str:
    """onnx.compose puts its prefix before the names of functions too, which makes other operators of them."""
    names = {f.name for f in proto.functions if f.domain == DOMAIN and f.name not in OP_TYPES}
    own = {name: op for name in names for op in sorted(OP_TYPES, key=len) if name.endswith(op)}  # the longer one last
    for part in (f for f in proto.functions if f.domain == DOMAIN and f.name in own):
        part.name = own[part.name]
    found = [n for n in _nodes(proto) if n.domain == DOMAIN and n.op_type in own]
    for node in found:
        node.op_type = own[node.op_type]
    known, kept = set(), []
    for part in proto.functions:  # several prefixed copies of one body
        key = (part.domain, part.name, part.overload)
        if key not in known:
            known.add(key)
            kept.append(part)
    if found:
        bodies = [onnx.FunctionProto.FromString(part.SerializeToString()) for part in kept]
        del proto.functions[:]
        proto.functions.extend(bodies)
    return (
        f"{len(found)} activations are named with a prefix, as onnx.compose does it; they have their own name again"
        if found
        else ""
    )


def _inputs(proto: onnx.ModelProto) -> str:
    """Initializers are constants, also where an old exporter lists them as inputs with a default."""
    stored = {t.name for t in proto.graph.initializer}
    kept = [v for v in proto.graph.input if v.name not in stored]
    found = len(proto.graph.input) - len(kept)
    if found:
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    return f"{found} initializers are inputs too; they are taken as constants" if found else ""


def _attributes(nodes: list[onnx.NodeProto]) -> str:
    found = 0
    for node in nodes:
        there = {a.name for a in node.attribute}
        defaults = {"groups": Config().groups, "axis": Config().axis}
        missing = [name for name in defaults if name not in there]
        node.attribute.extend(onnx.helper.make_attribute(name, defaults[name]) for name in missing)
        found += bool(missing)
    return f"{found} activations had no `groups` or `axis`; they have their defaults now" if found else ""


def _names(nodes: list[onnx.NodeProto]) -> str:
    """A name of its own for each, whatever graph it is in."""
    counts, taken, found = Counter(n.name for n in nodes), {n.name for n in nodes}, 0
    for node in nodes:
        if node.name and counts[node.name] == 1:
            continue
        stem, number = node.name or node.op_type, 0
        while (name := f"{stem}_{number}") in taken:
            number += 1
        counts[node.name] -= 1
        taken.add(name)
        node.name, found = name, found + 1
    return f"{found} activations had no name of their own; they have one now" if found else ""


def _bodies(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> str:
    known = {(f.domain, f.name, f.overload) for f in proto.functions}
    lacking = [n for n in nodes if n.op_type == OP_TYPE and (n.domain, n.op_type, n.overload) not in known]
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.value_info)}
    double = any(kinds.get(name) == onnx.TensorProto.DOUBLE for n in lacking for name in n.input[1:2])
    opset = max((e.version for e in proto.opset_import if e.domain in ("", "ai.onnx")), default=0)
    for node in lacking:
        try:
            body = function.build(read_config(ir.from_proto(node)), opset, double=double)
        except SpecError as error:
            raise LoadError(f"the activation {node.name}: {error}") from None
        node.overload = body.overload
        if body.identifier() not in known:
            known.add(body.identifier())
            proto.functions.append(ir.to_proto(body))
    if not lacking:
        return ""
    if not any(e.domain == DOMAIN for e in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, OPSET_VERSION))
    proto.ir_version = max(proto.ir_version, _OVERLOADS)
    return (
        f"{len(lacking)} activations had no function body, as other tools drop the functions of a file; the body of "
        f"{DOMAIN}::{OP_TYPE} was put back"
    )


def _dtype(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> str:
    """The metadata's dtype is that of the weights; a converter changes the weights and leaves it."""
    coefficients = {name for node in nodes for name in node.input[1:]}
    kinds = [t.data_type for t in proto.graph.initializer if t.name not in coefficients]
    kinds += [v.type.tensor_type.elem_type for v in proto.graph.input if v.type.HasField("tensor_type")]
    found = Counter(_FLOATS[k] for k in kinds if k in _FLOATS)
    entry = next((e for e in proto.metadata_props if e.key == DTYPE), None)
    if entry is None or not found or entry.value in found:
        return ""
    said, entry.value = entry.value, found.most_common(1)[0][0]
    return f"its metadata say that it holds {said!r}, which it does not; {entry.value} is taken"


def _external(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def _linked(proto: onnx.ModelProto, path: Path) -> list[str]:
    """Take in the weights behind links, which onnx and onnxruntime refuse to follow.

    Hubs keep files under their hashes in one folder, with links by name elsewhere: the links of the model and of its weights
    must lead to the same folder, so that a file that was sent with a link to something else reads nothing of it.
    """
    found = set()
    for tensor in _external(proto):
        entry = {e.key: e.value for e in tensor.external_data}
        place = path.parent / entry.get("location", "")
        if not place.is_symlink() or place.resolve().parent != path.resolve().parent:
            continue
        try:
            with place.open("rb") as file:
                file.seek(int(entry.get("offset", 0)))
                tensor.raw_data = file.read(int(entry["length"]) if "length" in entry else -1)
        except (OSError, ValueError) as error:
            raise LoadError(f"{path}: its weights in {place.name} cannot be read: {error}") from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        found.add(place.name)
    names = ", ".join(sorted(found))
    return [f"its weights in {names} are links to other files; they are read from there"] if found else []
