"""Learned activations -> fixed functions: passes over ONNX graphs, each checked against the activation that it replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.collapse.api import collapse_model
    from opau_onnx.collapse.freezing import freeze_model
    from opau_onnx.collapse.result import CollapseResult

__all__ = ["CollapseResult", "collapse_model", "freeze_model"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "CollapseResult": "result",
        "collapse_model": "api",
        "freeze_model": "freezing",
    },
)
