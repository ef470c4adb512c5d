"""onnxruntime on a CUDA device."""

from __future__ import annotations

import onnxruntime

from opau_onnx.compare.sessions import OrtSession
from opau_onnx.runtime.session import CUDA


class OrtCuda(OrtSession):
    """onnxruntime on a CUDA device, with the compiled kernels where the file has ops for them."""

    name = "ort-cuda"
    library = "auto"
    device = "cuda"

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        if CUDA not in onnxruntime.get_available_providers():
            return f"onnxruntime {onnxruntime.__version__} here has no {CUDA}"
        return None
