"""The activation in an ONNX graph: its attributes and functions, finding it, reading its coefficients, saving models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.graph.nodes import opau_nodes, read_coefficients, read_config

__all__ = ["opau_nodes", "read_coefficients", "read_config"]
__getattr__, __dir__ = lazy(__name__, {"opau_nodes": "nodes", "read_coefficients": "nodes", "read_config": "nodes"})
