"""Learned activations of a model: their functions, coefficients, and what would run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.inspect.api import inspect_model
    from opau_onnx.inspect.result import InspectedActivation, InspectResult

__all__ = ["InspectResult", "InspectedActivation", "inspect_model"]
__getattr__, __dir__ = lazy(__name__, {"InspectResult": "result", "InspectedActivation": "result", "inspect_model": "api"})
