"""Plot data of an ONNX file: its learned and its fused activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx.compare.batches import Batch
from opau_onnx.compare.opening import open_model
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.sketches import InputSketch
from opau_onnx.core.spec import OP_TYPES, Config
from opau_onnx.errors import LoadError, SpecError, ValidationError
from opau_onnx.graph.lookup import collapsed_form, find_activations
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import attribute_tensor, opau_nodes, read_coefficients, read_config
from opau_onnx.graph.save import add_outputs
from opau_onnx.graph.whole import read_model
from opau_onnx.io.samples import Samples
from opau_onnx.plot.subjects import Subject, Subjects, batches, read_data, sketcher

Array = npt.NDArray[np.float64]


def of_file(path: Path, data: Samples | str | Path | None, samples: int) -> Subjects:
    """The activations of an ONNX file, learned and fused ones.

    Raises:
        LoadError: the file or the data cannot be read.
        ValidationError: it has none, or cannot run on the data.
    """
    if not path.is_file():
        raise LoadError(f"{path} does not exist; expected a model")
    model = read_model(path)
    nodes = opau_nodes(model, OP_TYPES)
    if not nodes:
        raise ValidationError(_nothing(path, model))
    found = [_of_node(path, node) for node in nodes]
    _distinguish(found, nodes)
    notes = ["the start is not known: an ONNX file holds what was learned only"]
    if data is None:
        notes.append("the range of real inputs is not known: an ONNX file brings none, give --data")
        return Subjects(found, "", tuple(notes))
    chosen = read_data(data, [str(v.name) for v in model.graph.inputs], samples)
    _feed(model, nodes, found, batches(chosen, _fixed(model)))
    return Subjects(found, f"{len(chosen):,} samples of {chosen.source}", tuple(notes))


def _nothing(path: Path, model: ir.Model) -> str:
    text = f"{path} holds no learned activation (OrthogonalPade or FixedOrthogonalPade)"
    form, sites = collapsed_form(model), find_activations(model)
    if form is None:
        return f"{text}; there is nothing to draw"
    return f"{text}: opau-collapse turned {len(sites)} into operators ({form} form). Draw the file that it was made from"


def _of_node(path: Path, node: ir.Node) -> Subject:
    name = node.metadata_props.get(MODULE, "") or str(node.name)
    try:
        coefficients, config = read_coefficients(node), read_config(node)
        if coefficients is not None:
            config.check_coefficients(coefficients[0].shape, coefficients[1].shape)
    except SpecError as error:
        raise ValidationError(f"{node.name} in {path} is not as the definition has it: {error}") from None
    if coefficients is None or not all(np.isfinite(values).all() for values in coefficients):
        raise ValidationError(
            f"the coefficients of {node.name} are computed at run time, or are no numbers that the definition allows; "
            f"{path} cannot be drawn"
        )
    note = "of scale · x + shift, absorbed into the node" if "scale" in node.attributes else ""
    numerator, denominator = (values.astype(np.float64) for values in coefficients)
    return Subject(name, config, numerator, denominator, note=note)


def _distinguish(found: Sequence[Subject], nodes: Iterable[ir.Node]) -> None:
    """One module may stand at several nodes: then these are named too."""
    names = [s.name for s in found]
    for subject, node in zip(found, nodes, strict=True):
        if names.count(subject.name) > 1:
            subject.name = f"{subject.name} ({node.name})"


def _fixed(model: ir.Model) -> int | None:
    sizes = [v.shape[0] for v in model.graph.inputs if v.shape is not None and v.shape.rank()]
    return next((s for s in sizes if isinstance(s, int)), None)


def _feed(model: ir.Model, nodes: Sequence[ir.Node], found: Sequence[Subject], parts: Sequence[Batch]) -> None:
    """Run the file and keep what its activations get; those in branches and loops get no range."""
    dtypes = [v.dtype.numpy() if v.dtype is not None else None for v in model.graph.inputs]
    seen = [(n, s) for n, s in zip(nodes, found, strict=True) if n.graph is model.graph and n.inputs[0] is not None]
    for _, subject in (pair for pair in zip(nodes, found, strict=True) if pair not in seen):
        subject.note = "in a branch or loop, where its inputs cannot be looked at"
    outputs = len(model.graph.outputs)
    add_outputs(model, [n.inputs[0] for n, _ in seen if n.inputs[0] is not None])
    sketches: dict[str, InputSketch] = {}
    add = sketcher(sketches, len(parts))
    runtime: Runtime | None = None
    for part in parts:
        inputs = [_cast(x, dtype) for x, dtype in zip(part.inputs, dtypes, strict=True)]
        runtime = runtime or open_model(model, inputs)
        for (node, subject), values in zip(seen, runtime.run(inputs)[outputs:], strict=True):
            add(subject.name, _argument(node, subject.config, np.asarray(values, dtype=np.float64)))
    for subject in found:
        subject.inputs = sketches.get(subject.name)


def _cast(x: Tensor, dtype: Any) -> Tensor:
    kind = getattr(torch, getattr(dtype, "name", ""), None)
    return x.to(kind) if isinstance(kind, torch.dtype) and kind.is_floating_point and x.is_floating_point() else x


def _argument(node: ir.Node, config: Config, x: Array) -> Array:
    """Input of the function itself: a fused node applies its affine first."""
    if "scale" not in node.attributes:
        return x
    scale, shift = (attribute_tensor(node, name).astype(np.float64) for name in ("scale", "shift"))
    if config.groups > 1:
        axis = config.check_input(x.shape)
        shape = (-1, *(1,) * (x.ndim - axis - 1))
        scale, shift = (np.repeat(v, x.shape[axis] // config.groups).reshape(shape) for v in (scale, shift))
    return x * scale + shift
