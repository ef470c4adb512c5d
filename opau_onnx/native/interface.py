"""The compiled library's plain C interface (``custom_ops/include/opau/c_api.h``) from Python, without onnxruntime.

For tests and certification: single-threaded, on any instruction set that this machine has.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core.spec import Config
from opau_onnx.errors import LibraryError, SpecError
from opau_onnx.native.library import get_library_path

DTYPES = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}
"""Element types that have kernels -> ONNX's number (TensorProto.DataType)."""

_int, _wide, _text, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p
_COEFFICIENTS = [_pointer, _wide, _pointer, _wide]
_FUNCTION = [_text, _text, _wide, _wide, _wide, _int, _pointer, _wide, _pointer, _wide, _pointer, _pointer]
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "opau_version": (_text, []),
    "opau_instruction_set_count": (_int, []),
    "opau_instruction_set_name": (_text, [_int]),
    "opau_instruction_set_available": (_int, [_int]),
    "opau_create": (_text, [*_FUNCTION, _int, ctypes.POINTER(_pointer)]),
    "opau_destroy": (None, [_pointer]),
    "opau_run": (_text, [_pointer, _pointer, _pointer, _wide, _wide, _wide, _wide, _wide, _int]),
    "opau_function_create": (_text, [_text, _text, _wide, _wide, _wide, _int, ctypes.POINTER(_pointer)]),
    "opau_function_destroy": (None, [_pointer]),
    "opau_forward": (_text, [_pointer, _int, *_COEFFICIENTS, _pointer, _pointer, _wide, _wide, _wide, _pointer]),
    "opau_backward": (_text, [_pointer, _int, *_COEFFICIENTS, *[_pointer] * 5, _wide, _wide, _wide, _pointer]),
    "opau_cuda_workspace": (_wide, [_pointer, _int, _wide, _wide, _wide, _wide, _int]),
    "opau_cuda_forward": (_text, [_pointer, _int, *_COEFFICIENTS, *[_pointer] * 2, _wide, _wide, _wide, *[_pointer] * 2]),
    "opau_cuda_backward": (_text, [_pointer, _int, *_COEFFICIENTS, *[_pointer] * 5, _wide, _wide, _wide, *[_pointer] * 2]),
    "opau_cuda_built": (_int, []),
    "opau_cuda_create": (_text, [*_FUNCTION, ctypes.POINTER(_pointer)]),
    "opau_cuda_destroy": (None, [_pointer]),
    "opau_cuda_device_bytes": (_wide, [_pointer]),
    "opau_cuda_upload": (_text, [_pointer, _pointer]),
    "opau_cuda_run": (_text, [_pointer, _pointer, _pointer, _wide, _wide, _wide, _pointer]),
}


@cache
def open_library(path: str | None = None) -> ctypes.CDLL:
    """The library at ``path``, or the package's own, with the types of its functions declared.

    Raises:
        LibraryError: the library was not built, is not there, cannot be loaded, or is of another version.
    """
    if path is None:
        path = get_library_path()
    try:
        library = ctypes.CDLL(str(Path(path).resolve()))
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded: {error}; build it again") from error
    for name in _SIGNATURES:
        if not declare(library, name):
            raise LibraryError(f"{path} has no function {name}: it is of another version of this package; build it again")
    return library


def declare(library: ctypes.CDLL, name: str) -> bool:
    """Tell ctypes the types of one of the library's functions; False where it has none of this name."""
    function = getattr(library, name, None)
    if function is not None:
        function.restype, function.argtypes = _SIGNATURES[name]
    return function is not None


def instruction_sets(library: ctypes.CDLL | None = None, *, available: bool = True) -> list[str]:
    """Names of the instruction sets compiled in, slowest first; by default those that this machine can run."""
    lib = library or open_library()
    return [
        lib.opau_instruction_set_name(i).decode()
        for i in range(lib.opau_instruction_set_count())
        if lib.opau_instruction_set_available(i) or not available
    ]


def extent(config: Config, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(outer, channels, inner) of a tensor of this shape."""
    if config.groups == 1:
        return 1, 1, int(np.prod(shape))
    axis = config.check_input(shape)
    return int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))


class Given:
    """The arguments of the library's functions that create an activation, and the arrays that they point into."""

    def __init__(self, config: Config, numerator: Any, denominator: Any, dtype: str, affine: tuple[Any, Any] | None) -> None:
        exact = np.float64 if dtype == "float64" else np.float32
        c, d = (np.ascontiguousarray(v, dtype=exact) for v in (numerator, denominator))
        config.check_coefficients(c.shape, d.shape)
        scale, shift = (np.ascontiguousarray(v, dtype=exact) for v in affine or (np.zeros(0), np.zeros(0)))
        if affine is not None and not scale.shape == shift.shape == (config.groups,):
            raise SpecError(f"scale and shift have shapes {scale.shape} and {shift.shape}; expected {(config.groups,)} both")
        self.arrays = (c, d, scale, shift)
        self.arguments = (
            config.basis.encode(), config.form.encode(), *config.degrees, config.groups, DTYPES[dtype],
            c.ctypes.data, c.shape[0] if c.ndim > 1 else 1, d.ctypes.data, d.shape[0] if d.ndim > 1 else 1,
            *(v.ctypes.data if affine is not None else None for v in (scale, shift)),
        )  # fmt: skip


def check(message: bytes | None) -> None:
    """Raise SpecError with what the library says; None says nothing."""
    if message is not None:
        raise SpecError(message.decode())


class Activation:
    """One activation in the library.

    Args:
        config: which function.
        numerator, denominator: coefficients, shapes as :class:`~opau_onnx.core.spec.Config` allows.
        dtype: a key of :data:`DTYPES`.
        instruction_set: a name of :func:`instruction_sets`; None for the fastest.

    Raises:
        SpecError: what the library says of bad coefficients or a missing instruction set.
        LibraryError: there is no library.
    """

    def __init__(
        self, config: Config, numerator: Any, denominator: Any, dtype: str = "float32", *,
        affine: tuple[Any, Any] | None = None, instruction_set: str | None = None, library: ctypes.CDLL | None = None,
    ) -> None:  # fmt: skip
        self._library = library or open_library()
        self.config, self.dtype = config, dtype
        given = Given(config, numerator, denominator, dtype, affine)
        index = -1
        if instruction_set is not None:
            index = instruction_sets(self._library, available=False).index(instruction_set)
        handle = _pointer()
        check(self._library.opau_create(*given.arguments, index, ctypes.byref(handle)))
        self.handle = handle

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.opau_destroy(self.handle)

    def __call__(self, x: npt.NDArray[Any], *, stream: bool = False) -> npt.NDArray[Any]:
        """y of the shape and dtype of x; 16-bit types as uint16 or as numpy's and ml_dtypes' own."""
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        self.run(x.ctypes.data, y.ctypes.data, extent(self.config, x.shape), (0, x.size), stream=stream)
        return y

    def run(self, x: int, y: int, extent: tuple[int, int, int], span: tuple[int, int], *, stream: bool = False) -> None:
        """Elements span[0] to span[1] - 1 of the tensors at the addresses ``x`` and ``y``, which may be equal."""
        check(self._library.opau_run(self.handle, x, y, *extent, *span, int(stream)))
