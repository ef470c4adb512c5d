"""Is it the same model? One PyTorch model, or ONNX file, against ONNX files in every runtime at hand, down to the layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.verify.api import verify_model
    from opau_onnx.verify.findings import Finding
    from opau_onnx.verify.onnx_model import OnnxModel, read_onnx_model
    from opau_onnx.verify.report import VerifyResult

__all__ = ["Finding", "OnnxModel", "VerifyResult", "read_onnx_model", "verify_model"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "Finding": "findings",
        "OnnxModel": "onnx_model",
        "VerifyResult": "report",
        "read_onnx_model": "onnx_model",
        "verify_model": "api",
    },
)
