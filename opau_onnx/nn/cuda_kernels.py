"""The compiled CUDA training kernels on tensors that lie in one GPU's memory: whether they can run, and their launches."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from opau_onnx.core.spec import Config
from opau_onnx.errors import OpauError
from opau_onnx.native.cuda import CudaActivation, built
from opau_onnx.native.training import CudaFunction, Extent

Given = tuple[int, int, int, int, int]
"""dtype, numerator, its rows, denominator, its rows: the first arguments of a launch."""


@cache
def why_not(device: int) -> str:
    """Why the kernels do not run on this CUDA device; "" where they do."""
    try:
        if not built():
            return "the library was built without CUDA kernels"
        config = Config()
        with torch.cuda.device(device):  # a library may hold no code for it
            CudaActivation(config, np.ones(config.numerator_size), np.ones(config.denominator_size))
    except (OpauError, RuntimeError) as error:
        return str(error)
    return ""


def usable(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """True for tensors on one GPU for which the library has code."""
    return (
        x.is_cuda
        and numerator.device == x.device
        and denominator.device == x.device
        and not why_not(torch.cuda.current_device() if x.device.index is None else x.device.index)
    )


@lru_cache(maxsize=256)
def _function(config: Config) -> CudaFunction:
    return CudaFunction(config)


def _workspace(config: Config, x: Tensor, given: Given, extent: Extent, *, sums: bool) -> Tensor:
    """From PyTorch's allocator, which gives it to nobody else before this stream has used it."""
    size = _function(config).workspace(given[0], max(given[2], given[4]), extent, sums=sums)
    return torch.empty(size, dtype=torch.uint8, device=x.device)


def _stream(x: Tensor) -> int:
    return int(torch.cuda.current_stream(x.device).cuda_stream)


def _here(x: Tensor) -> torch.cuda.device:
    return torch.cuda.device(x.device)


def forward(config: Config, given: Given, x: Tensor, y: Tensor, extent: Extent) -> None:
    """Enqueue y = P(x) / Q(x) on the current stream of x's device; x and y are dense and lie alike."""
    with _here(x):
        workspace = _workspace(config, x, given, extent, sums=False)
        _function(config).forward(*given, x.data_ptr(), y.data_ptr(), extent, workspace.data_ptr(), _stream(x))


def backward(
    config: Config, given: Given, x: Tensor, g: Tensor, to: tuple[int | None, int | None, int | None], extent: Extent
) -> None:
    """Enqueue the gradients of sum(g y); ``to``: addresses of dx, dc and dd, None for what is not needed."""
    with _here(x):
        workspace = _workspace(config, x, given, extent, sums=to[1] is not None)
        _function(config).backward(*given, x.data_ptr(), g.data_ptr(), *to, extent, workspace.data_ptr(), _stream(x))
