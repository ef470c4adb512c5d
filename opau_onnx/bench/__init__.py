"""Timing of the activation: the compiled kernel against onnxruntime's own, the function body, and PyTorch; ``opau-bench``.

Importing this package loads neither torch nor onnxruntime.
"""

from __future__ import annotations

from opau_onnx.errors import BenchError

__all__ = ["BenchError"]
