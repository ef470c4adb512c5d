"""The compiled library's CUDA kernels (``custom_ops/include/opau/cuda_c_api.h``) from Python, without onnxruntime.

For tests and benchmarks on a GPU: the caller owns all device memory, PyTorch's allocator for example.
"""

from __future__ import annotations

import ctypes
from typing import Any

from opau_onnx.core.spec import Config
from opau_onnx.native.interface import Given, check, open_library


def built(library: ctypes.CDLL | None = None) -> bool:
    """True where the library has CUDA kernels; says nothing of a device."""
    return bool((library or open_library()).opau_cuda_built())


class CudaActivation:
    """One activation on the current CUDA device.

    Args:
        config: which function.
        numerator, denominator: coefficients, shapes as :class:`~opau_onnx.core.spec.Config` allows.
        dtype: a key of :data:`opau_onnx.native.DTYPES`.
        affine: (scale, shift) of shape (groups,) each: the function of scale x + shift; None for the function of x.
        library: None for the package's own.

    Attributes:
        device_bytes: device memory that :meth:`upload` fills; 0: none is wanted.

    Raises:
        SpecError: what the library says of bad coefficients, a build without CUDA kernels or a device without code.
        LibraryError: there is no library.
    """

    def __init__(
        self, config: Config, numerator: Any, denominator: Any, dtype: str = "float32", *,
        affine: tuple[Any, Any] | None = None, library: ctypes.CDLL | None = None,
    ) -> None:  # fmt: skip
        self._library = library or open_library()
        handle = ctypes.c_void_p()
        given = Given(config, numerator, denominator, dtype, affine)
        check(self._library.opau_cuda_create(*given.arguments, ctypes.byref(handle)))
        self.handle, self.config = handle, config
        self.device_bytes = int(self._library.opau_cuda_device_bytes(handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.opau_cuda_destroy(self.handle)

    def upload(self, memory: int) -> None:
        """Copy the coefficients to :attr:`device_bytes` bytes at the device address ``memory``, which stays the caller's."""
        check(self._library.opau_cuda_upload(self.handle, memory))

    def run(self, x: int, y: int, extent: tuple[int, int, int], stream: int) -> None:
        """Enqueue y = f(x) on a stream (a cudaStream_t); ``x`` and ``y`` are device addresses and may be equal."""
        check(self._library.opau_cuda_run(self.handle, x, y, *extent, stream))
