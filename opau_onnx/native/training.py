"""The compiled library's training kernels on memory that the caller owns.

See ``training_api.h`` and ``cuda_training_api.h`` in ``custom_ops/include/opau``.
"""

from __future__ import annotations

import ctypes

from opau_onnx.core.spec import Config
from opau_onnx.native.interface import check, instruction_sets, open_library

Extent = tuple[int, int, int]
"""(outer, channels, inner) of a dense tensor; the groups divide the channels."""


class Function:
    """One function without its coefficients, for forward and backward passes; any number of threads may use it at once.

    Every argument named after a tensor is the address of its first element, in the host's memory.

    Args:
        config: which function.
        instruction_set: a name of :func:`opau_onnx.native.instruction_sets`; None for the fastest.
        library: None for the package's own.

    Raises:
        SpecError: an instruction set that is not there.
        LibraryError: there is no library.
    """

    def __init__(self, config: Config, instruction_set: str | None = None, library: ctypes.CDLL | None = None) -> None:
        self._library = library or open_library()
        self._forward, self._backward = self._library.opau_forward, self._library.opau_backward
        self.config = config
        index = -1
        if instruction_set is not None:
            index = instruction_sets(self._library, available=False).index(instruction_set)
        self.handle = _create(self._library, config, index)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.opau_function_destroy(self.handle)

    def forward(
        self, dtype: int, numerator: int, numerator_rows: int, denominator: int, denominator_rows: int, x: int, y: int,
        extent: Extent, parallel: int | None = None,
    ) -> None:  # fmt: skip
        """y = P(x) / Q(x).

        Args:
            dtype: of x and y, a value of :data:`opau_onnx.native.DTYPES`.
            numerator, denominator: coefficients of so many rows; float64 where ``dtype`` is, else float32.
            x, y: tensors of this extent.
            parallel: address of an ``opau_parallel_for`` that has threads; None for this thread alone.
        """
        message = self._forward(
            self.handle, dtype, numerator, numerator_rows, denominator, denominator_rows, x, y, *extent, parallel
        )
        if message is not None:
            check(message)

    def backward(
        self, dtype: int, numerator: int, numerator_rows: int, denominator: int, denominator_rows: int, x: int, g: int,
        dx: int | None, dc: int | None, dd: int | None, extent: Extent, parallel: int | None = None,
    ) -> None:  # fmt: skip
        """Gradients of sum(g y); further arguments as :meth:`forward`.

        Args:
            g, dx: as x, which may not overlap dx; dx None for none.
            dc, dd: by numerator and denominator, in their shapes and dtype: summed in float64 and rounded once. None for
                neither. The bits do not depend on the threads.
        """
        message = self._backward(
            self.handle, dtype, numerator, numerator_rows, denominator, denominator_rows, x, g, dx, dc, dd, *extent, parallel
        )
        if message is not None:
            check(message)


class CudaFunction:
    """One function without its coefficients, on the current CUDA device; any number of threads and streams may use it at once.

    Every argument named after a tensor is an address in that device's memory. Calls are enqueued on ``stream`` (a cudaStream_t)
    and wait for nothing. Gradients have the same bits at every call and on every device.

    Args:
        config: which function.
        library: None for the package's own.

    Raises:
        SpecError: what the library says of a configuration, of arguments or of a launch.
        LibraryError: there is no library.
    """

    def __init__(self, config: Config, library: ctypes.CDLL | None = None) -> None:
        self._library = library or open_library()
        self._forward, self._backward = self._library.opau_cuda_forward, self._library.opau_cuda_backward
        self.config = config
        self.handle = _create(self._library, config, -1)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.opau_function_destroy(self.handle)

    def workspace(self, dtype: int, rows: int, extent: Extent, *, sums: bool) -> int:
        """Bytes of a call's workspace; ``rows``: the larger number of the coefficients', ``sums``: for their gradients."""
        return int(self._library.opau_cuda_workspace(self.handle, dtype, rows, *extent, int(sums)))

    def forward(
        self, dtype: int, numerator: int, numerator_rows: int, denominator: int, denominator_rows: int, x: int, y: int,
        extent: Extent, workspace: int, stream: int,
    ) -> None:  # fmt: skip
        """y = P(x) / Q(x); arguments as :meth:`Function.forward`, and :meth:`workspace` bytes, aligned to 16."""
        message = self._forward(
            self.handle, dtype, numerator, numerator_rows, denominator, denominator_rows, x, y, *extent, workspace, stream
        )
        if message is not None:
            check(message)

    def backward(
        self, dtype: int, numerator: int, numerator_rows: int, denominator: int, denominator_rows: int, x: int, g: int,
        dx: int | None, dc: int | None, dd: int | None, extent: Extent, workspace: int, stream: int,
    ) -> None:  # fmt: skip
        """Gradients of sum(g y); arguments as :meth:`Function.backward`."""
        message = self._backward(
            self.handle,
            dtype,
            numerator,
            numerator_rows,
            denominator,
            denominator_rows,
            x,
            g,
            dx,
            dc,
            dd,
            *extent,
            workspace,
            stream,
        )
        if message is not None:
            check(message)


def _create(library: ctypes.CDLL, config: Config, instruction_set: int) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    names = config.basis.encode(), config.form.encode()
    check(library.opau_function_create(*names, *config.degrees, config.groups, instruction_set, ctypes.byref(handle)))
    return handle
