"""The definition of the activation, its evaluation, gradients, fits and oracle. Needs the standard library and numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.core.denominators import FORMS
    from opau_onnx.core.spec import BASES, Config

__all__ = ["BASES", "FORMS", "Config"]
__getattr__, __dir__ = lazy(__name__, {"BASES": "spec", "FORMS": "denominators", "Config": "spec"})
