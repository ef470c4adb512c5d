"""``inspect_model``: the learned activations of a model, and what would run each, without running the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opau_onnx.inspect.result import InspectResult, named

if TYPE_CHECKING:
    from torch import nn

    from opau_onnx.io.source import Source


def inspect_model(model: nn.Module | Source | str | Path, inputs: Any = None) -> InspectResult:
    """List the activations of a model: basis, denominator form, degrees, groups, ranges of the coefficients, what runs them.

    The model is not run. Of an ONNX file an onnxruntime session is made on the CPU, and its own record says what would run each
    activation there; of PyTorch models the answer is that of eager mode on the CPU.

    Args:
        model: a module in evaluation mode, a file that :func:`opau_onnx.load` reads without further arguments, its result, or
            an .onnx file.
        inputs: example inputs of a module; files bring their own.

    Returns:
        The result; one without activations where the model holds none.

    Raises:
        LoadError, ExportError: the model cannot be read.
    """
    if isinstance(model, (str, Path)) and named(Path(model)):
        from opau_onnx.inspect import onnx_files

        return onnx_files.of_file(Path(model))
    from opau_onnx.inspect import torch_models
    from opau_onnx.io.source import as_source

    return torch_models.of_source(as_source(model, inputs))
