"""Certificates: the compiled kernels against the oracle on every input that a dtype has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.certify.certificate import certify

__all__ = ["certify"]
__getattr__, __dir__ = lazy(__name__, {"certify": "certificate"})
