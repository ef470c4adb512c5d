"""Learned rational (orthogonal-Padé) activations: from a trained PyTorch model to ONNX, proven equal.

Importing this package loads neither torch nor onnxruntime; the names below load what they need when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opau_onnx._version import __version__

if TYPE_CHECKING:
    from opau_onnx.collapse.api import collapse_model
    from opau_onnx.collapse.quantize import QuantizationConfig
    from opau_onnx.collapse.result import CollapseResult
    from opau_onnx.collapse.validation import ValidationConfig
    from opau_onnx.compare.policies import ToleranceConfig
    from opau_onnx.core.spec import Config
    from opau_onnx.export.api import ExportConfig, ExportResult, export_model, validate_model
    from opau_onnx.io.checkpoint import save_checkpoint
    from opau_onnx.io.source import load
    from opau_onnx.plot.api import PlotResult, plot_model
    from opau_onnx.runtime.library import get_library_path
    from opau_onnx.runtime.session import create_session
    from opau_onnx.verify.api import verify_model
    from opau_onnx.verify.report import VerifyResult

_WHERE = {
    "CollapseResult": "opau_onnx.collapse.result",
    "ValidationConfig": "opau_onnx.collapse.validation",
    "Config": "opau_onnx.core.spec",
    "ExportResult": "opau_onnx.export.api",
    "ToleranceConfig": "opau_onnx.compare.validation",
    "PlotResult": "opau_onnx.plot.api",
    "QuantizationConfig": "opau_onnx.collapse.quantize",
    "ExportConfig": "opau_onnx.export.api",
    "VerifyResult": "opau_onnx.verify.report",
    "collapse_model": "opau_onnx.collapse.api",
    "export_model": "opau_onnx.export.api",
    "create_session": "opau_onnx.runtime.session",
    "get_library_path": "opau_onnx.runtime.library",
    "load": "opau_onnx.io.source",
    "plot_model": "opau_onnx.plot.api",
    "save_checkpoint": "opau_onnx.io.checkpoint",
    "validate_model": "opau_onnx.export.api",
    "verify_model": "opau_onnx.verify.api",
}

__all__ = [
    "CollapseResult",
    "Config",
    "ExportConfig",
    "ExportResult",
    "PlotResult",
    "QuantizationConfig",
    "ToleranceConfig",
    "ValidationConfig",
    "VerifyResult",
    "__version__",
    "collapse_model",
    "create_session",
    "export_model",
    "get_library_path",
    "load",
    "plot_model",
    "save_checkpoint",
    "validate_model",
    "verify_model",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in ("compare", "core", "errors", "export", "graph", "io", "keras", "models", "nn"):
        return importlib.import_module(f"opau_onnx.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
