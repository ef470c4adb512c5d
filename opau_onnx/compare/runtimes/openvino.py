"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch

from opau_onnx.compare.arrays import to_numpy
from opau_onnx.compare.runtime import Model, NotRunError, VerifiedRuntime, first_line
from opau_onnx.compare.runtimes.reference import inlined


class OpenVino(VerifiedRuntime):
    """OpenVINO on the CPU, told to compute in float32; function bodies are inlined, since it takes standard operators only."""

    name = "openvino"
    keeps_nan = False

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        return None if importlib.util.find_spec("openvino") else "openvino is not installed: pip install openvino"

    def __init__(self, model: Model, *, part: bool = False) -> None:
        import openvino

        proto = inlined(model)
        if onnx.TensorProto.DOUBLE in {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)}:
            raise NotRunError("OpenVINO computes a float64 file in float32", applicable=False)
        stored = {t.name for t in proto.graph.initializer}
        self.names = [v.name for v in proto.graph.input if v.name not in stored]
        try:
            read = openvino_core().read_model(proto.SerializeToString())
            self.compiled = openvino_core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except Exception as error:  # OpenVINO raises RuntimeError and its own
            raise NotRunError(f"OpenVINO cannot load the file: {first_line(error)}") from None
        self.version, self.provider = f"openvino {openvino.get_version()}", "CPU"
        self.implementation = "standard operators, function bodies inlined, float32"
        self.description = f"{self.version}, {self.provider}, {self.implementation}"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        try:
            found = self.compiled({name: _openvino_tensor(x) for name, x in zip(self.names, inputs, strict=True)})
            return [_openvino_array(found[output], output) for output in self.compiled.outputs]
        except Exception as error:
            raise NotRunError(f"OpenVINO cannot run the file: {first_line(error)}") from None


@cache
def openvino_core() -> Any:
    """One for the process, never freed.

    OpenVINO's CPU plugin sets the thread's alternate signal stack and puts the one before back when it is unloaded. Where two
    overlap, that one is freed memory, and the next signal with a handler, such as Ctrl-C, ends the process.
    """
    import openvino

    return openvino.Core()


def _openvino_tensor(x: torch.Tensor) -> Any:
    """OpenVINO would take numpy's bfloat16 for float16."""
    array = to_numpy(x)
    if x.dtype != torch.bfloat16:
        return array
    import openvino

    return openvino.Tensor(np.ascontiguousarray(array).view(np.uint16), list(x.shape), openvino.Type.bf16)


def _openvino_array(values: Any, output: Any) -> Any:
    """.. and gives its own bfloat16 as float16."""
    values = values.copy()
    return values.view(ml_dtypes.bfloat16) if output.element_type.get_type_name() == "bf16" else values
