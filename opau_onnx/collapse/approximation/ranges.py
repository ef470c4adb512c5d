"""Calibration on real data: the ranges that its activations' inputs reach, and how far small changes of them go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.collapse.approximation.approximate import Range
from opau_onnx.errors import ValidationError
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.io.samples import Samples
from opau_onnx.runtime.session import create_session, quiet_options

BATCH = 64
"""Samples in one run."""


def activation_ranges(path: Path, samples: Samples) -> dict[str, Range]:
    """The range of each activation's input over all samples, by node; activations in subgraphs are not seen.

    Raises:
        ValidationError: onnxruntime cannot run the model on the samples, or an activation's input is not finite there.
    """
    model = ir.load(path)
    own = {n.name: n.inputs[0] for n in opau_nodes(model) if n.graph is model.graph and n.inputs[0] is not None}
    present = {v.name for v in model.graph.outputs}
    wanted = {str(name): str(value.name) for name, value in own.items()}
    model.graph.outputs.extend(v for v in dict.fromkeys(own.values()) if v.name not in present)
    seen: dict[str, Range] = {}
    for found in run(model, samples, sorted(set(wanted.values()))):
        for tensor, values in found.items():
            if values.size:
                seen[tensor] = _joined(seen.get(tensor), values, tensor)
    return {name: seen[tensor] for name, tensor in wanted.items() if tensor in seen}


def _joined(before: Range | None, values: Any, name: str) -> Range:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValidationError(f"the activation's input {name} is infinite or NaN on the data; expected finite numbers")
    now = Range(float(values.min()), float(values.max()), values.size)
    if before is None:
        return now
    return Range(min(before.low, now.low), max(before.high, now.high), before.count + now.count)


def run(model: ir.Model, samples: Samples, outputs: Sequence[str] | None = None) -> Any:
    """The outputs (by name) of a model in memory, batch by batch, on the CPU.

    Raises:
        ValidationError: onnxruntime refuses the model or the samples.
    """

    try:
        session = create_session(ir.to_proto(model), "cpu", session_options=quiet_options(), optimize="none")
        names = [v.name for v in session.get_outputs()] if outputs is None else list(outputs)
        feeds = [v.name for v in session.get_inputs()]
        for start in range(0, len(samples), BATCH):
            batch = dict(zip(feeds, (x[start : start + BATCH] for x in samples.inputs), strict=True))
            yield dict(zip(names, session.run(names, batch), strict=True))
    except ValidationError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ValidationError(f"onnxruntime cannot run the model on {samples.source}: {error}") from None


def shifted(path: Path, tolerance: float) -> list[ir.Model]:
    """The model with every activation's result moved: up by ``tolerance``, down by it, at random within it."""
    return [_shifted(path, tolerance, kind) for kind in ("up", "down", "random")]


def _shifted(path: Path, tolerance: float, kind: str) -> ir.Model:
    model = ir.load(path)
    for number, node in enumerate(opau_nodes(model)):
        y = node.outputs[0]
        readers = list(y.uses())
        graph, dtype = node.graph, y.dtype or ir.DataType.FLOAT
        assert graph is not None
        attributes = {"low": -tolerance, "high": tolerance, "dtype": int(ir.DataType.FLOAT), "seed": float(number)}
        if kind != "random":
            attributes["low"] = attributes["high"] = tolerance if kind == "up" else -tolerance
        noise = ir.node("RandomUniformLike", [y], attributes=attributes, name=f"{node.name}/noise")
        cast = ir.node("Cast", [noise.outputs[0]], attributes={"to": int(dtype)}, name=f"{node.name}/cast")
        moved = ir.node("Add", [y, cast.outputs[0]], name=f"{node.name}/moved")
        for new, suffix in ((noise, "noise"), (cast, "cast"), (moved, "moved")):
            new.outputs[0].name = f"{y.name}/{suffix}"
        for use in readers:
            use.node.replace_input_with(use.idx, moved.outputs[0])
        _as_output(model, graph, y, moved.outputs[0])
        graph.insert_after(node, [noise, cast, moved])
    return model


def _as_output(model: ir.Model, graph: Any, before: ir.Value, after: ir.Value) -> None:
    """Where the result is an output of its graph the moved one is, under the same name."""
    for i, output in enumerate(graph.outputs):
        if output is before:
            graph.outputs[i] = after
            after.type, after.shape = before.type, before.shape
            after.name, before.name = before.name, f"{before.name}/plain"
