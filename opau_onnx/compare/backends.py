"""Running an ONNX file, and saying what ran it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import torch

from opau_onnx.errors import ValidationError
from opau_onnx.graph.coverage import read


class Runtime:
    """An ONNX file that can be run.

    Attributes:
        description: runtime, version, provider and the implementation of the activations, for reports.
    """

    description: str

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """The outputs for the inputs, in the graph's order."""
        raise NotImplementedError


class SessionRuntime(Runtime):
    """An onnxruntime session.

    Attributes:
        session: the session.
        names: of the inputs, in order.
    """

    def __init__(self, session: onnxruntime.InferenceSession, description: str) -> None:
        self.session, self.description = session, description
        self.names = [v.name for v in session.get_inputs()]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        feed = {name: ort_value(x) for name, x in zip(self.names, inputs, strict=True)}
        try:
            return [array(v) for v in self.session.run_with_ort_values(None, feed)]
        except Exception as error:
            raise ValidationError(f"onnxruntime cannot run the model: {error}") from None


class OnnxRuntime(SessionRuntime):
    """onnxruntime on the CPU, without any library of ours: the activations run as function bodies.

    Raises:
        ValidationError: onnxruntime refuses the file.
    """

    def __init__(self, model: Path | bytes, *, optimize: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ValidationError(f"onnxruntime cannot load the model: {error}") from None
        providers = ", ".join(session.get_providers())
        bodies = "function bodies (no library registered)" if read(model).nodes else "no op of ours"
        super().__init__(session, f"onnxruntime {onnxruntime.__version__}, {providers}, {bodies}")


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


def open_runtime(path: Path, inputs: Sequence[torch.Tensor]) -> Runtime:
    """onnxruntime where it can run the model, else the ReferenceEvaluator; the description says which.

    Raises:
        ValidationError: neither can.
    """
    try:
        runtime = OnnxRuntime(path)
        runtime.run(inputs)
    except ValidationError as error:
        if not any(sign in str(error) for sign in ("NOT_IMPLEMENTED", "bfloat16")):
            raise
        reference = Reference(path)
        reference.run(inputs)
        return reference
    return runtime


def open_model(model: ir.Model, inputs: Sequence[torch.Tensor]) -> Runtime:
    """:func:`open_runtime` of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(ir.to_proto(model).SerializeToString())
        return open_runtime(path, inputs)


def to_numpy(x: torch.Tensor) -> Any:
    """A numpy array of the same values; bfloat16 through ml_dtypes."""
    if x.dtype == torch.bfloat16:
        import ml_dtypes

        return x.view(torch.uint16).numpy(force=True).view(ml_dtypes.bfloat16)
    return x.numpy(force=True)


def ort_value(x: torch.Tensor) -> Any:
    """onnxruntime's own tensor of the same values, bfloat16 too."""
    array = np.ascontiguousarray(to_numpy(x)).reshape(tuple(x.shape))
    if x.dtype == torch.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def array(value: Any) -> Any:
    """A numpy array of float64 or of the value's own dtype; onnxruntime hands bfloat16 over only through DLPack."""
    if value.data_type() == "tensor(bfloat16)":
        return torch.utils.dlpack.from_dlpack(value._ortvalue.to_dlpack()).float().numpy()
    return value.numpy()
