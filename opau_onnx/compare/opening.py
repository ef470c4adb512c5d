"""A file or a model in memory, opened in the first runtime that can run it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.runtimes.reference import Reference
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.errors import ValidationError
from opau_onnx.graph.save import weight_bytes

IN_ONE_FILE = 2**26
"""Bytes of weights beyond which they stand beside the file, where onnxruntime maps them instead of copying them."""


def open_runtime(path: Path, inputs: Sequence[torch.Tensor]) -> Runtime:
    """onnxruntime where it can run the model, else the ReferenceEvaluator; the description says which.

    Raises:
        ValidationError: neither can.
    """
    try:
        runtime = OnnxRuntime(path)
        runtime.run(inputs)
    except ValidationError as error:
        if not any(sign in str(error) for sign in ("NOT_IMPLEMENTED", "bfloat16")):
            raise
        missing = _missing(path, str(error))
        try:
            reference = Reference(path)
            reference.run(inputs)
        except ValidationError as other:
            raise ValidationError(
                f"no runtime here can run {path.name}: onnxruntime's CPU has no {missing}; {other}. Where the model's forward "
                "uses autocast, leave that out for the export and give --dtype instead"
            ) from None
        reference.description += f" (onnxruntime's CPU has no {missing})"
        return reference
    return runtime


class LateRuntime(Runtime):
    """:func:`open_runtime` at the first run, so that a session and what was needed before it are not in memory together."""

    def __init__(self, path: Path) -> None:
        self.path, self.description = path, "not run"
        self.opened: Runtime | None = None

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        if self.opened is None:
            self.opened = open_runtime(self.path, inputs)
            self.description = self.opened.description
        return self.opened.run(inputs)


def _missing(path: Path, message: str) -> str:
    """The operator and the type that onnxruntime does not implement, and the node that has them."""
    found = re.search(r"implementation for (\w+)(?:\(\d+\))? node with name '([^']*)'", message)
    if found is None:
        return "kernel for a type in it"
    for node in ir.load(path).graph.all_nodes():
        if node.name == found[2]:
            kinds = [v.dtype.name.lower() for v in node.inputs if v is not None and v.dtype is not None]
            return f"{found[1]} of {kinds[0] if kinds else 'its type'} (node {found[2]!r})"
    return f"{found[1]} of its type (node {found[2]!r})"


def open_model(model: ir.Model, inputs: Sequence[torch.Tensor]) -> Runtime:
    """:func:`open_runtime` of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data" if weight_bytes(model) > IN_ONE_FILE else None)
        return open_runtime(path, inputs)
