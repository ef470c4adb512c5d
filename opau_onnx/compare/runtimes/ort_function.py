"""onnxruntime on the CPU without our library."""

from __future__ import annotations

from opau_onnx.compare.sessions import OrtSession


class OrtFunction(OrtSession):
    """onnxruntime on the CPU without our library: function bodies."""

    name = "ort-function"
