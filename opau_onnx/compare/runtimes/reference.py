"""onnx's ReferenceEvaluator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch

from opau_onnx.compare.arrays import to_numpy
from opau_onnx.compare.runtime import Model, NotRunError, Runtime, VerifiedRuntime
from opau_onnx.errors import ValidationError


class Reference(Runtime):
    """onnx's ReferenceEvaluator, for what onnxruntime's CPU cannot run (bfloat16, convolutions in float64).

    The functions are inlined first: the evaluator ignores ``overload`` and would run the last body for every node.
    """

    def __init__(self, model: Path | bytes) -> None:
        proto = inlined(model)
        self.evaluator = reference_evaluator(proto)
        self.names = [v.name for v in proto.graph.input]
        self.description = f"onnx {onnx.__version__} ReferenceEvaluator, function bodies inlined"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        feed = {name: to_numpy(x) for name, x in zip(self.names, inputs, strict=True)}
        try:
            return list(self.evaluator.run(None, feed))
        except Exception as error:
            raise ValidationError(f"the ReferenceEvaluator cannot run the model: {error}") from None


def inlined(model: Path | bytes) -> onnx.ModelProto:
    """The model with its functions' bodies in place of their calls, weights included."""
    proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    return onnx.inliner.inline_local_functions(proto)


def reference_evaluator(model: onnx.ModelProto) -> Any:
    """onnx's ReferenceEvaluator; its own GatherElements takes at most 64 entries, tables of codes have more."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(self, data: Any, indices: Any, axis: int | None = None) -> tuple[Any]:
            return (np.take_along_axis(data, indices.astype(np.int64), axis or 0),)

    return ReferenceEvaluator(model, new_ops=[GatherElements])


class ReferenceEvaluator(Reference, VerifiedRuntime):
    """onnx's evaluator in numpy, slow."""

    name = "reference"

    def __init__(self, model: Model, *, part: bool = False) -> None:
        try:
            super().__init__(model)
        except Exception as error:  # protobuf's and the evaluator's own types
            raise NotRunError(f"the ReferenceEvaluator cannot load the file: {error}") from None
        self.version, self.provider = f"onnx {onnx.__version__}", "ReferenceEvaluator (numpy)"
        self.implementation = "standard operators, function bodies inlined"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        with np.errstate(all="ignore"):  # infinities are part of the range policy
            return super().run(inputs)
