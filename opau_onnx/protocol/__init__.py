"""Types and errors of the Open Inference Protocol, shared by the server, the load test and deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.protocol.tensors import DATATYPES, TensorSpec

__all__ = ["DATATYPES", "TensorSpec"]
__getattr__, __dir__ = lazy(__name__, {"DATATYPES": "tensors", "TensorSpec": "tensors"})
