"""A file or a model in memory, opened in the first runtime that can run it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch

from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.runtimes.reference import Reference
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.errors import ValidationError


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
        reference = Reference(path)
        reference.run(inputs)
        return reference
    return runtime


def open_model(model: ir.Model, inputs: Sequence[torch.Tensor]) -> Runtime:
    """:func:`open_runtime` of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(ir.to_proto(model).SerializeToString())
        return open_runtime(path, inputs)
