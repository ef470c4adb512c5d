"""Learned activations -> fixed functions: passes over ONNX graphs, each proven against what it replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.collapse.api import collapse_model
    from opau_onnx.collapse.quantize import QuantizationConfig
    from opau_onnx.collapse.result import CollapseResult
    from opau_onnx.collapse.validation import Data, ValidationConfig

__all__ = ["CollapseResult", "Data", "QuantizationConfig", "ValidationConfig", "collapse_model"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "CollapseResult": "result",
        "Data": "validation",
        "QuantizationConfig": "quantize",
        "ValidationConfig": "validation",
        "collapse_model": "api",
    },
)
