"""onnxruntime on the CPU with the compiled kernels."""

from __future__ import annotations

from opau_onnx.compare.runtime import Model, NotRunError
from opau_onnx.compare.sessions import OrtSession
from opau_onnx.errors import LibraryError
from opau_onnx.graph import coverage as models
from opau_onnx.native.library import get_library_path


class OrtKernel(OrtSession):
    """onnxruntime on the CPU with the compiled kernels."""

    name = "ort-kernel"
    library = True

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        try:
            get_library_path()
        except LibraryError as error:
            return str(error)
        return None

    def __init__(self, model: Model, *, part: bool = False) -> None:
        if not models.read(model).nodes:
            raise NotRunError("the file has no op of ours, so nothing for a kernel", applicable=False)
        super().__init__(model, part=part)
        if not self.kernel:
            raise NotRunError(f"the kernel did not run: {self.implementation}")
