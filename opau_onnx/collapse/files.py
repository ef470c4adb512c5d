"""The collapsed file against the file that it came from, as a whole; no PyTorch model is needed.

The tolerance is measured: :class:`opau_onnx.compare.references.FileReference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch

from opau_onnx.compare.batches import random_batches
from opau_onnx.compare.examples import file_runs
from opau_onnx.compare.file_reference import FileReference
from opau_onnx.compare.loop import compare_batches
from opau_onnx.compare.opening import LateRuntime
from opau_onnx.compare.sizes import size_batches
from opau_onnx.compare.tensors import Comparison
from opau_onnx.config import ToleranceConfig
from opau_onnx.graph.axes import open_axes


def compare_files(
    before: Path, after: Path, inputs: Sequence[torch.Tensor], config: ToleranceConfig
) -> tuple[str, str, list[Comparison]]:
    """(what ran the collapsed file, what ran the original, one comparison for each output and batch).

    Raises:
        ValidationError: a file that no runtime here can run.
    """
    model = ir.load(before)
    reference = FileReference(before, inputs, config.seed)
    collapsed = LateRuntime(after)
    names = [str(v.name) for v in model.graph.outputs]
    axes = open_axes(model)
    sizes = size_batches(inputs, axes, config.seed, file_runs(reference.runtime))
    batches = [*random_batches(inputs, axes, config), *sizes.batches]
    found = compare_batches(collapsed, [(reference, "")], names, batches, config)
    return collapsed.description, reference.description, found
