"""Tensors of torch, numpy and onnxruntime with the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import torch


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
