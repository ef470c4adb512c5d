"""Which versions of ONNX's default domain can be written, checked and run here."""

from __future__ import annotations

from functools import lru_cache

OLDEST = 18
DEFAULT = 20
DEFAULT_BFLOAT16 = 22
"""The first in which ONNX's Conv and most others take bfloat16."""


def default(dtype: str) -> int:
    """The opset that is written where none is asked for."""
    return DEFAULT_BFLOAT16 if dtype == "bfloat16" else DEFAULT


@lru_cache(maxsize=1)
def newest() -> int:
    """The newest opset that both onnx defines and onnxruntime runs; asked of onnxruntime by trying."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for opset in range(onnx.defs.onnx_opset_version(), OLDEST, -1):
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy")
        graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "probe", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's exceptions have no common base class
            continue
        return opset
    return OLDEST
