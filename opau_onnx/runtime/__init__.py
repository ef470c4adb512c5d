"""onnxruntime sessions that use the compiled op library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx import _telemetry
from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.runtime.session import create_session

_telemetry.disable()  # before any module of this package loads onnxruntime
__all__ = ["create_session"]
__getattr__, __dir__ = lazy(__name__, {"create_session": "session"})
