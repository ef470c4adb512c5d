"""All learned activations of a model on one sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.plot.api import PlotResult, plot_model

__all__ = ["PlotResult", "plot_model"]
__getattr__, __dir__ = lazy(__name__, {"PlotResult": "api", "plot_model": "api"})
