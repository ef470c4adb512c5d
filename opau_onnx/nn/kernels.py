"""Tensors given to the compiled training kernels, on the CPU and on CUDA: which ones can be, and how they lie in memory."""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from opau_onnx.core.spec import Config
from opau_onnx.errors import LibraryError
from opau_onnx.native import DTYPES, instruction_sets, open_library
from opau_onnx.native.library import say_missing
from opau_onnx.native.training import Extent, Function
from opau_onnx.nn import cuda_kernels

_CODES = {getattr(torch, name): code for name, code in DTYPES.items()}
_WIDE = {dtype: torch.float64 if dtype == torch.float64 else torch.float32 for dtype in _CODES}
"""The dtype of the arithmetic, and of the coefficients."""
_TAKEN = {(x, *pair) for x in _CODES for pair in product(_CODES, repeat=2) if x == torch.float64 or torch.float64 not in pair}
"""Dtypes of input, numerator and denominator that go together."""
_TORCH = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")


@dataclass(frozen=True)
class Implementation:
    """Implementation that runs the activations in eager mode.

    Attributes:
        kernel: True for the compiled kernels, False for PyTorch's operations.
        instruction_set: that of the kernels, such as "avx2"; None without them.
        threads: True where the kernels use PyTorch's threads, which ``torch.set_num_threads`` sets; False for one thread.
        reason: why there are no kernels on the CPU; "" where there are.
        cuda: why there are none on the current CUDA device; "" where there are.
    """

    kernel: bool
    instruction_set: str | None
    threads: bool
    reason: str
    cuda: str

    def __str__(self) -> str:
        if not self.kernel:
            return f"PyTorch's operations on every device, since {self.reason}"
        threads = "on PyTorch's threads" if self.threads else "on one thread, since this PyTorch lends none"
        gpu = "the compiled kernels on CUDA" if not self.cuda else f"PyTorch's operations on CUDA, since {self.cuda}"
        return f"the compiled kernels for {self.instruction_set} {threads} on the CPU, {gpu}; PyTorch's operations elsewhere"


def implementation() -> Implementation:
    """Which implementation ``opau_onnx.nn`` uses in eager mode.

    Where the library is missing, one line of the log (logger ``opau_onnx``) says so at the first use. Tensors of mixed
    float32 and float64, traced, transformed or differentiated twice go through PyTorch's operations everywhere.
    """
    found = _implementation()
    if not found.kernel:
        say_missing(found.reason)
    return found


@cache
def _implementation() -> Implementation:
    try:
        names = instruction_sets(open_library())
    except LibraryError as error:
        return Implementation(False, None, False, str(error), str(error))
    cuda = cuda_kernels.why_not(torch.cuda.current_device()) if torch.cuda.is_available() else "PyTorch finds no CUDA device"
    return Implementation(True, names[-1], _parallel_for() is not None, "", cuda)


@cache
def _parallel_for() -> int | None:
    """The address of PyTorch's own parallel loop (``torch/csrc/stable/c/shim.h``), which PyTorch 2.10 and later export."""
    path = Path(torch.__file__).parent / "lib" / _TORCH
    try:
        function = ctypes.CDLL(str(path)).torch_parallel_for
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


def usable(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """True for tensors in the host's memory or one GPU's that the kernels know, where the library is there."""
    return (
        (x.dtype, numerator.dtype, denominator.dtype) in _TAKEN
        and x.layout is torch.strided
        and ((x.is_cpu and numerator.is_cpu and denominator.is_cpu) or cuda_kernels.usable(x, numerator, denominator))
        and implementation().kernel
    )


@lru_cache(maxsize=256)
def _function(config: Config) -> Function:
    return Function(config)


# What follows is written for few microseconds a call: small networks wait for nothing else.


def forward(config: Config, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """y, of x's shape and dtype, and in its order in memory where x is dense."""
    x, order = (x, None) if x.is_contiguous() and not x.is_neg() else _dense(x)
    dtype = x.dtype
    c, d = _ready(numerator, _WIDE[dtype]), _ready(denominator, _WIDE[dtype])
    y = torch.empty_like(x)
    rows = (1, 1) if config.groups == 1 else (_rows(c), _rows(d))
    given = _CODES[dtype], c.data_ptr(), rows[0], d.data_ptr(), rows[1]
    if x.is_cpu:
        _function(config).forward(*given, x.data_ptr(), y.data_ptr(), _extent(config, x, order), _parallel_for())
    else:
        cuda_kernels.forward(config, given, x, y, _extent(config, x, order))
    return y


def backward(
    config: Config, x: Tensor, numerator: Tensor, denominator: Tensor, g: Tensor, need_x: bool, need_coefficients: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of sum(g y) by x, numerator and denominator in their shapes and dtypes; None for what is not needed."""
    x, order = (x, None) if x.is_contiguous() and not x.is_neg() else _dense(x)
    dtype = x.dtype
    c, d = _ready(numerator, _WIDE[dtype]), _ready(denominator, _WIDE[dtype])
    g = _like(x, g)
    dx = torch.empty_like(x) if need_x else None
    dc, dd = (torch.empty_like(c), torch.empty_like(d)) if need_coefficients else (None, None)
    rows = (1, 1) if config.groups == 1 else (_rows(c), _rows(d))
    given = _CODES[dtype], c.data_ptr(), rows[0], d.data_ptr(), rows[1]
    to = _address(dx), _address(dc), _address(dd)
    if x.is_cpu:
        _function(config).backward(*given, x.data_ptr(), g.data_ptr(), *to, _extent(config, x, order), _parallel_for())
    else:
        cuda_kernels.backward(config, given, x, g, to, _extent(config, x, order))
    if dc is not None and dd is not None and not dc.dtype is numerator.dtype is denominator.dtype:
        return dx, dc.to(numerator.dtype), dd.to(denominator.dtype)
    return dx, dc, dd


def _ready(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Dense and in this dtype: nearly always as it is."""
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _rows(values: Tensor) -> int:
    return values.shape[0] if values.dim() > 1 else 1


Order = tuple[int, ...] | None


def _dense(x: Tensor) -> tuple[Tensor, Order]:
    """x without gaps, copied where it has some, and its dimensions in their order in memory; None for their own order."""
    x = x.resolve_neg()
    if x.is_contiguous():
        return x, None
    for tensor in (x, x.clone()):
        strides = tensor.stride()
        order = tuple(sorted(range(tensor.dim()), key=lambda i, strides=strides: (-strides[i], i)))  # type: ignore[misc]
        if tensor.permute(order).is_contiguous():
            return tensor, order
    return x.contiguous(), None


def _like(x: Tensor, g: Tensor) -> Tensor:
    """g as x lies in memory."""
    fits = (g.is_contiguous() and x.is_contiguous()) or g.stride() == x.stride()
    if fits and g.dtype is x.dtype and not g.is_neg() and not g._is_zerotensor():
        return g
    return torch.empty_like(x).copy_(g)


def _extent(config: Config, x: Tensor, order: Order) -> Extent:
    if config.groups == 1:
        return 1, 1, x.numel()
    shape = tuple(x.shape)
    axis = config.check_input(shape)
    if order is not None:
        axis, shape = order.index(axis), tuple(shape[i] for i in order)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
