"""From a torch module to an ONNX model with ai.opau nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.export.api import ExportResult, export_model, validate_model

__all__ = ["ExportResult", "export_model", "validate_model"]
__getattr__, __dir__ = lazy(__name__, {"ExportResult": "api", "export_model": "api", "validate_model": "api"})
