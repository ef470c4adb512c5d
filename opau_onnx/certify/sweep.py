"""Sweeps over bit patterns in the compiled library (``custom_ops/include/opau/certify.h``)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.certify.activations import Activation
from opau_onnx.core.reports import Reported
from opau_onnx.errors import ValidationError
from opau_onnx.runtime import native

SWEPT = {"float32": 32, "float16": 16, "bfloat16": 16}
"""dtype -> bits of an element. float64 has too many inputs to try them all."""
CONDITION_LIMIT = 10.0
QUICK_STRIDE = 4099
"""A prime, so that a sample meets every exponent and all low bits."""


class _Worst(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint64), *((n, ctypes.c_double) for n in ("y", "value", "condition", "ulp"))]


class _Result(ctypes.Structure):
    _fields_ = [
        ("inputs", ctypes.c_uint64), ("judged", ctypes.c_uint64), ("any", _Worst), ("conditioned", _Worst),
        ("violations", ctypes.c_uint64), ("first_violation", ctypes.c_uint64),
        ("differences", ctypes.c_uint64), ("first_difference", ctypes.c_uint64),
    ]  # fmt: skip


@dataclass(frozen=True)
class Worst:
    """The input with the largest error: its bits, x, the kernel's y, the oracle's value, both errors' measures."""

    bits: str
    x: float
    y: float
    value: float
    condition: float
    ulp: float


@dataclass(frozen=True)
class Sweep(Reported):
    """Sweep over one dtype.

    Attributes:
        complete: every bit pattern was tried.
        inputs: bit patterns tried.
        judged: finite inputs whose value the dtype can hold; in forms with poles, only where the condition number is below
            :data:`CONDITION_LIMIT`.
        worst: largest error of those, in units of the result's last place; None where nothing was judged.
        worst_conditioned: the same where the condition number is below :data:`CONDITION_LIMIT`.
        violations: inputs with a NaN, an infinity or a finite value where the range policy says something else.
        differences: inputs where two instruction sets give different bits.
    """

    dtype: str
    complete: bool
    inputs: int
    judged: int
    worst: Worst | None
    worst_conditioned: Worst | None
    violations: int
    first_violation: str | None
    differences: int
    first_difference: str | None
    seconds: float


def count(dtype: str, *, quick: bool) -> int:
    """How many inputs a sweep tries; a quick one takes all of the 16-bit types and a sample of float32."""
    whole = 1 << SWEPT[dtype]
    return -(-whole // QUICK_STRIDE) if quick and dtype == "float32" else whole


def sweep(
    activation: Activation, dtype: str, *, threads: int, quick: bool = False,
    progress: Callable[[int], None] = lambda done: None, reference: tuple[Any, Any] | None = None,
) -> Sweep:  # fmt: skip
    """Try one activation on one dtype; ``progress`` is called with the number of inputs done so far.

    ``reference`` gives the oracle other coefficients than the kernels, so that tests can see a certificate fail.

    Raises:
        ValidationError: what the library says.
        LibraryError: there is no library.
        KeyboardInterrupt: after the threads have stopped.
    """
    import time

    library = _library()
    c, d = (np.ascontiguousarray(v, np.float32) for v in (activation.numerator, activation.denominator))
    exact = [np.ascontiguousarray(v, np.float64) for v in (reference or (c, d))]
    done, cancel, result = ctypes.c_int64(0), ctypes.c_int(0), _Result()
    whole = 1 << SWEPT[dtype]
    stride = QUICK_STRIDE if quick and dtype == "float32" else 1
    config, messages = activation.config, []

    def run() -> None:
        messages.append(
            library.opau_certify(
                config.basis.encode(), config.form.encode(), *config.degrees, native.DTYPES[dtype],
                c.ctypes.data, d.ctypes.data, exact[0].ctypes.data, exact[1].ctypes.data, CONDITION_LIMIT,
                0, whole, stride, threads, ctypes.byref(done), ctypes.byref(cancel), ctypes.byref(result),
            )
        )  # fmt: skip

    begin = time.perf_counter()
    worker = threading.Thread(target=run)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)
            progress(done.value)
    finally:
        cancel.value = int(worker.is_alive())
        worker.join()
    if messages[0] is not None:
        raise ValidationError(f"the sweep failed: {messages[0].decode()}")
    return _found(dtype, stride == 1, result, time.perf_counter() - begin)


def _found(dtype: str, complete: bool, result: _Result, seconds: float) -> Sweep:
    return Sweep(
        dtype, complete, result.inputs, result.judged, _worst(dtype, result.any), _worst(dtype, result.conditioned),
        result.violations, _hex(dtype, result.first_violation) if result.violations else None,
        result.differences, _hex(dtype, result.first_difference) if result.differences else None, round(seconds, 3),
    )  # fmt: skip


def _worst(dtype: str, worst: _Worst) -> Worst | None:
    if worst.ulp < 0:
        return None
    return Worst(_hex(dtype, worst.x), number(dtype, worst.x), worst.y, worst.value, worst.condition, worst.ulp)


def number(dtype: str, bits: int) -> float:
    """The value of a bit pattern."""
    if dtype == "float16":
        return float(np.uint16(bits).view(np.float16))
    return float(np.uint32(bits if dtype == "float32" else bits << 16).view(np.float32))


def _hex(dtype: str, bits: int) -> str:
    return f"0x{bits:0{SWEPT[dtype] // 4}x}"


def _library() -> ctypes.CDLL:
    library = native.open_library()
    function = library.opau_certify
    function.restype = ctypes.c_char_p
    text, wide, unsigned, pointer = ctypes.c_char_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
    function.argtypes = [text, text, wide, wide, ctypes.c_int, *[pointer] * 4, ctypes.c_double, *[unsigned] * 3, ctypes.c_int]
    function.argtypes += [pointer] * 3
    return library
