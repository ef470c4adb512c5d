"""A model whose activations are still another library's, as a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from opau_onnx.compare.names import ORIGINAL
from opau_onnx.compare.references import flatten
from opau_onnx.compare.runtime import NotRunError, VerifiedRuntime, first_line
from opau_onnx.nn.casting import cast_inputs
from opau_onnx.nn.copying import copy_module


class OriginalModules(VerifiedRuntime):
    """The model with another library's activations, before they were adopted, in float64: that has no rounding to allow for."""

    name = ORIGINAL

    def __init__(self, model: torch.nn.Module) -> None:
        self.version, self.provider = f"torch {torch.__version__}", "eager"
        self.implementation = "the other library's modules, float64"
        self.description = f"{self.version}, {self.implementation}"
        self.model = copy_module(model).double().eval()  # not to(dtype): some libraries overload it and fail

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        try:
            with torch.no_grad():
                found = flatten(self.model(*cast_inputs(inputs, torch.float64)))
        except (Exception, SystemExit) as error:  # the libraries' own code; one of them calls exit
            raise NotRunError(f"the original modules cannot run here: {first_line(error)}") from None
        if not all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point()):
            raise NotRunError("the original modules give NaN or infinity, which says nothing about a file")
        return [t.numpy() for t in found]
