"""Properties of an ONNX file for deployment, read from the file alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx

from opau_onnx.errors import DeployError
from opau_onnx.graph import coverage as models
from opau_onnx.graph.rows import over_rows
from opau_onnx.protocol.tensors import DATATYPES, TensorSpec

_BY_ELEMENT = {t.element: t.name for t in DATATYPES.values()}


@dataclass(frozen=True)
class OnnxFile:
    """Contents of the file.

    Attributes:
        inputs, outputs: of the graph; initializers that are also inputs are left out, as onnxruntime leaves them out.
        symbols: the name of each tensor's first axis where it is open, "" where it has no name, None where it is fixed.
        external: files with weights, as paths relative to the model's folder.
        opset: of ONNX's own operators.
        ir_version: of the format.
        contents: what the op library has to cover.
        sha256: of the file.
        over_rows: why rows of a batch depend on each other, by the graph; None where no node shows it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: dict[str, str | None]
    external: tuple[str, ...]
    opset: int
    ir_version: int
    contents: models.Contents
    sha256: str
    over_rows: str | None


def read(path: Path) -> OnnxFile:
    """Look into a file; weights in other files are not read.

    Raises:
        DeployError: it cannot be read, is no ONNX model, or has tensors that Triton's protocol does not know.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeployError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own types
        raise DeployError(f"{path} is not an ONNX model: {type(error).__name__}: {error}") from None
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    outputs = list(model.graph.output)
    if not outputs:
        raise DeployError(f"{path} is not an ONNX model that can be run: its graph has no output")
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return OnnxFile(
        tuple(_spec(value, path) for value in inputs), tuple(_spec(value, path) for value in outputs),
        {value.name: _symbol(value) for value in (*inputs, *outputs)}, _external(model, path), max(opsets, default=0),
        model.ir_version, models.read(model), hashlib.sha256(content).hexdigest(), over_rows(model),
    )  # fmt: skip


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    if value.type.WhichOneof("value") != "tensor_type":
        raise DeployError(f"{path}: {value.name!r} is no tensor; only tensors can be served")
    kind = value.type.tensor_type
    if kind.elem_type not in _BY_ELEMENT:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise DeployError(f"{path}: {value.name!r} is a tensor of {name}; tensors of {', '.join(DATATYPES)} can be served")
    if not kind.HasField("shape"):
        raise DeployError(f"{path} does not say how many axes {value.name!r} has; run onnx.shape_inference.infer_shapes on it")
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorSpec(value.name, _BY_ELEMENT[kind.elem_type], shape)


def _symbol(value: onnx.ValueInfoProto) -> str | None:
    axes = value.type.tensor_type.shape.dim
    if not axes or axes[0].HasField("dim_value"):
        return None
    return str(axes[0].dim_param)


def _external(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    found: set[str] = set()
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found.update(entry.value for entry in tensor.external_data if entry.key == "location")
    for location in found:
        parts = PurePosixPath(location)
        # A path in a file must not name another file of the machine that deploys it.
        if parts.is_absolute() or ".." in parts.parts or "\\" in location or not location:
            raise DeployError(f"{path} keeps weights in {location!r}; expected a file in its own folder")
        if parts == PurePosixPath("model.onnx"):
            raise DeployError(f"{path} keeps weights in {location}, the name of the model in the repository; rename it")
        if not (path.parent / location).is_file():
            raise DeployError(f"{path} keeps weights in {location}, which is not in {path.parent}; put it there")
        if not (path.parent / location).resolve().is_relative_to(path.parent.resolve()):
            raise DeployError(f"{path} keeps weights in {location}, a link to another folder; put the file itself there")
    return tuple(sorted(found))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
