"""The compiled op library and onnxruntime sessions that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.runtime.library import get_library_path
    from opau_onnx.runtime.session import create_session

__all__ = ["create_session", "get_library_path"]
__getattr__, __dir__ = lazy(__name__, {"create_session": "session", "get_library_path": "library"})
