"""Comparison of runtimes: tensors, tolerances, input grids, references and the runtimes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.compare.agreement import TopKAgreement
    from opau_onnx.compare.tensors import Comparison
    from opau_onnx.compare.validation import Validation

__all__ = ["Comparison", "TopKAgreement", "Validation"]
__getattr__, __dir__ = lazy(__name__, {"Comparison": "tensors", "TopKAgreement": "agreement", "Validation": "validation"})
