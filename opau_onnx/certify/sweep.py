"""Sweeps over bit patterns in the compiled library (``custom_ops/include/opau/certify.h``)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx import native
from opau_onnx.certify.activations import Activation
from opau_onnx.core.reports import Reported
from opau_onnx.errors import ValidationError

SWEPT = {"float32": 32, "float16": 16, "bfloat16": 16}
"""dtype -> bits of an element. float64 has too many inputs to try them all."""
CONDITION_LIMIT = 10.0
SPECIAL = 8
"""Zeros, infinities, NaN, the largest and the smallest numbers, which every sample holds besides."""
VARIANTS = 10
"""Ways through the kernels besides one row for all: ``OPAU_VARIANTS`` of certify.h."""
QUICK_STRIDE = 4099
"""A prime, so that a sample meets every exponent and all low bits."""


class _Worst(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint64), *((n, ctypes.c_double) for n in ("y", "value", "condition", "ulp"))]


class _Variant(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("compared", "differences", "first_difference")]


class _Result(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_uint64) for n in ("inputs", "judged", "unjudged")),
        *((n, _Worst) for n in ("any", "conditioned", "bounded")),
        *((n, ctypes.c_uint64) for n in ("beyond", "first_beyond", "violations", "first_violation")),
        *((n, ctypes.c_uint64) for n in ("differences", "first_difference")), ("variants", _Variant * VARIANTS),
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
class Variant(Reported):
    """One way through the kernels, compared by bits with the row kernel of the same instruction set.

    Attributes:
        name: streaming stores, lanes (channels with rows of their own), tiles (channels with affines of their own), and so on.
        compared: results; the fastest instruction set's of every input, the slower ones' of a sixteenth of them, a set's whose
            source is compiled a second time for more of the processor of a 64th.
    """

    name: str
    compared: int
    differences: int
    first_difference: str | None


@dataclass(frozen=True)
class Sweep(Reported):
    """Sweep over one dtype.

    Attributes:
        complete: every bit pattern was tried.
        inputs: bit patterns tried.
        judged: finite inputs whose value the dtype can hold; each error is held against the oracle's bound.
        unjudged: finite inputs of which the bound says nothing: next to a pole, or where rounding may change Q by half of it.
        worst: largest error of those judged, in units of the result's last place; None where nothing was judged.
        worst_conditioned: the same where the condition number is below :data:`CONDITION_LIMIT` and the bound at most 32 units.
        share: largest error over what the oracle's bound allows (its ``ulp``): 1 is the whole of it.
        beyond: inputs where the error is larger than that.
        violations: inputs with a NaN, an infinity or a finite value where the range policy says something else.
        differences: inputs where two instruction sets' row kernels give different bits; a set whose source is compiled a second
            time is tried on a 64th of the float32 inputs, and its copy on all.
        variants: the other ways through the kernels.
    """

    dtype: str
    complete: bool
    inputs: int
    judged: int
    unjudged: int
    worst: Worst | None
    worst_conditioned: Worst | None
    share: Worst | None
    beyond: int
    first_beyond: str | None
    violations: int
    first_violation: str | None
    differences: int
    first_difference: str | None
    variants: tuple[Variant, ...]
    seconds: float


def count(dtype: str, *, quick: bool) -> int:
    """How many inputs a sweep tries; a quick one takes all of the 16-bit types and a sample of float32."""
    whole = 1 << SWEPT[dtype]
    return -(-whole // QUICK_STRIDE) + SPECIAL if quick and dtype == "float32" else whole


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
    names = [library.opau_certify_variant(i).decode() for i in range(VARIANTS)]
    return _found(dtype, stride == 1, result, names, time.perf_counter() - begin)


def _found(dtype: str, complete: bool, result: _Result, names: list[str], seconds: float) -> Sweep:
    def first(count: int, bits: int) -> str | None:
        return _hex(dtype, bits) if count else None

    variants = tuple(
        Variant(name, v.compared, v.differences, first(v.differences, v.first_difference))
        for name, v in zip(names, result.variants, strict=True)
    )
    return Sweep(
        dtype, complete, result.inputs, result.judged, result.unjudged,
        _worst(dtype, result.any), _worst(dtype, result.conditioned), _worst(dtype, result.bounded),
        result.beyond, first(result.beyond, result.first_beyond),
        result.violations, first(result.violations, result.first_violation),
        result.differences, first(result.differences, result.first_difference), variants, round(seconds, 3),
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
    library.opau_certify_variant.argtypes, library.opau_certify_variant.restype = [ctypes.c_int], ctypes.c_char_p
    return library
