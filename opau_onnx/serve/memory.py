"""Memory of a device and of the host, and copies between them.

onnxruntime's Python interface copies from and to host memory that the operating system may move, which makes the driver copy
everything twice, and it holds the interpreter's lock meanwhile. It allocates pinned memory only for providers that are plugins,
which that of onnxruntime-gpu is not. So both are done here, by the CUDA runtime that onnxruntime has loaded.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from functools import cache
from typing import Any, Protocol

import numpy as np

from opau_onnx.errors import DeviceError
from opau_onnx.protocol.tensors import Array

SMALLEST = 4096
"""Bytes of a block of pinned memory."""
TO_DEVICE, TO_HOST = 1, 2
"""cudaMemcpyKind."""
PER_THREAD_STREAM = 2
"""cudaStreamPerThread: a stream that each thread has, which neither waits for onnxruntime's streams nor makes them wait."""


class Memory(Protocol):
    """Buffers for tensors, and copies between them.

    Attributes:
        device: onnxruntime's name of the device.
        index: which one of them.
    """

    device: str
    index: int

    def enter(self) -> None:
        """To be called by a thread before it calls anything else, each time it may have worked on another device."""

    def pinned(self, size: int) -> Array:
        """At least ``size`` bytes of host memory, uint8 [n], not cleared; given back once no view of it is left."""

    def upload(self, target: int, source: Array) -> None:
        """Begin to copy a contiguous view of pinned memory to an address on the device."""

    def download(self, target: Array, source: int) -> None:
        """Begin to copy from an address on the device to a contiguous view of pinned memory."""

    def wait(self) -> None:
        """Until the copies that this thread began are done."""


class CpuMemory:
    """The host's memory in the place of a device's, for sessions on the CPU."""

    device, index = "cpu", 0

    def enter(self) -> None:
        """Nothing to do."""

    def pinned(self, size: int) -> Array:
        """See :class:`Memory`."""
        return np.empty(max(size, 1), np.uint8)

    def upload(self, target: int, source: Array) -> None:
        """See :class:`Memory`."""
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def download(self, target: Array, source: int) -> None:
        """See :class:`Memory`."""
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def wait(self) -> None:
        """Nothing to do."""


class CudaMemory:
    """An NVIDIA GPU's.

    Args:
        index: CUDA's number of the GPU.
        runtime: of CUDA; by default the one that onnxruntime has loaded.

    Raises:
        DeviceError: the runtime cannot be loaded; every method raises it where CUDA fails.
    """

    device = "cuda"

    def __init__(self, index: int, runtime: CudaRuntime | None = None) -> None:
        self.index = index
        self._runtime = runtime or loaded_runtime()

    def enter(self) -> None:
        """See :class:`Memory`."""
        self._runtime.call("cudaSetDevice", self.index)

    def pinned(self, size: int) -> Array:
        """See :class:`Memory`."""
        return self._runtime.pinned(size)

    def upload(self, target: int, source: Array) -> None:
        """See :class:`Memory`."""
        self._copy(target, source.ctypes.data, source.nbytes, TO_DEVICE)

    def download(self, target: Array, source: int) -> None:
        """See :class:`Memory`."""
        self._copy(target.ctypes.data, source, target.nbytes, TO_HOST)

    def wait(self) -> None:
        """See :class:`Memory`."""
        self._runtime.call("cudaStreamSynchronize", PER_THREAD_STREAM)

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        if size:
            self._runtime.call("cudaMemcpyAsync", target, source, size, kind, PER_THREAD_STREAM)


class CudaRuntime:
    """The few functions of the CUDA runtime that are called here; they don't hold the interpreter's lock.

    Args:
        library: file name or path of libcudart.

    Raises:
        DeviceError: it cannot be loaded.
    """

    def __init__(self, library: str) -> None:
        try:
            functions = ctypes.CDLL(library)
        except OSError as error:
            raise DeviceError(
                f"the CUDA runtime cannot be loaded ({error}); install the CUDA that this onnxruntime was built for"
            ) from None
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._functions: dict[str, Any] = {}
        for name, arguments in {
            "cudaSetDevice": [number],
            "cudaHostAlloc": [ctypes.POINTER(pointer), size, ctypes.c_uint],
            "cudaMemcpyAsync": [pointer, pointer, size, number, pointer],
            "cudaStreamSynchronize": [pointer],
        }.items():
            self._functions[name] = function = getattr(functions, name)
            function.argtypes, function.restype = arguments, number
        self._message = functions.cudaGetErrorString
        self._message.argtypes, self._message.restype = [number], ctypes.c_char_p
        self._idle: dict[int, list[int]] = {}

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            DeviceError: it returned an error.
        """
        code = self._functions[name](*arguments)
        if code:
            message = (self._message(code) or b"unknown").decode(errors="replace")
            raise DeviceError(f"{name} failed: {message} (CUDA error {code})")

    def pinned(self, size: int) -> Array:
        """See :meth:`Memory.pinned`. Blocks are powers of 2, and are used again rather than freed.

        To free one would wait for the whole GPU, and fail while a CUDA graph is captured, whenever the garbage collector likes.
        """
        rounded = max(SMALLEST, 1 << (max(size, 1) - 1).bit_length())
        idle = self._idle.setdefault(rounded, [])
        try:
            address = idle.pop()
        except IndexError:
            found = ctypes.c_void_p()
            self.call("cudaHostAlloc", ctypes.byref(found), rounded, 0)
            address = found.value or 0
        block = (ctypes.c_uint8 * rounded).from_address(address)
        weakref.finalize(block, idle.append, address).atexit = False
        return np.frombuffer(memoryview(block), np.uint8)


@cache
def loaded_runtime() -> CudaRuntime:
    """The CUDA runtime of onnxruntime's CUDA provider; a library that is loaded already is not loaded again under its name.

    Raises:
        DeviceError: there is none.
    """
    import onnxruntime

    major = str(getattr(onnxruntime, "cuda_version", "")).partition(".")[0]
    if not major:
        raise DeviceError(f"this onnxruntime ({onnxruntime.__version__}) was built without CUDA; install onnxruntime-gpu")
    return CudaRuntime(f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}")
