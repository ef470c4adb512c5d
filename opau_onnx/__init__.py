"""Learned rational (orthogonal-Padé) activations, from a trained PyTorch model to ONNX, verified within a rounding bound.

Importing this package loads neither torch nor onnxruntime; the names below load what they need when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy
from opau_onnx._version import __version__

if TYPE_CHECKING:
    from opau_onnx.collapse.api import collapse_model
    from opau_onnx.collapse.result import CollapseResult
    from opau_onnx.config import ExportConfig, QuantizationConfig, ToleranceConfig, ValidationConfig, VerifyConfig
    from opau_onnx.core.spec import Config
    from opau_onnx.export.api import ExportResult, export_model, validate_model
    from opau_onnx.inspect.api import inspect_model
    from opau_onnx.inspect.result import InspectResult
    from opau_onnx.io.checkpoint import save_checkpoint
    from opau_onnx.io.source import load
    from opau_onnx.native.library import get_library_path
    from opau_onnx.plot.api import PlotResult, plot_model
    from opau_onnx.runtime.session import create_session
    from opau_onnx.verify.api import verify_model
    from opau_onnx.verify.report import VerifyResult

_WHERE = {
    "CollapseResult": "collapse.result",
    "ValidationConfig": "config",
    "Config": "core.spec",
    "ExportResult": "export.api",
    "ToleranceConfig": "config",
    "InspectResult": "inspect.result",
    "PlotResult": "plot.api",
    "QuantizationConfig": "config",
    "ExportConfig": "config",
    "VerifyConfig": "config",
    "VerifyResult": "verify.report",
    "collapse_model": "collapse.api",
    "export_model": "export.api",
    "create_session": "runtime.session",
    "get_library_path": "native.library",
    "inspect_model": "inspect.api",
    "load": "io.source",
    "plot_model": "plot.api",
    "save_checkpoint": "io.checkpoint",
    "validate_model": "export.api",
    "verify_model": "verify.api",
}

__all__ = [
    "CollapseResult",
    "Config",
    "ExportConfig",
    "ExportResult",
    "InspectResult",
    "PlotResult",
    "QuantizationConfig",
    "ToleranceConfig",
    "ValidationConfig",
    "VerifyConfig",
    "VerifyResult",
    "__version__",
    "collapse_model",
    "create_session",
    "export_model",
    "get_library_path",
    "inspect_model",
    "load",
    "plot_model",
    "save_checkpoint",
    "validate_model",
    "verify_model",
]


_MODULES = ("compare", "core", "errors", "export", "graph", "io", "keras", "models", "nn")
__getattr__, __dir__ = lazy(__name__, _WHERE, _MODULES)
