"""drive_cuda_shim.py LIBRARY [--break]: the kernels under sanitizers, on buffers of malloc's that end where the tensor does."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

from opau_onnx.core.spec import Config
from opau_onnx.native import DTYPES
from opau_onnx.native.interface import declare
from opau_onnx.native.training import CudaFunction
from tests.custom_ops.cuda_shim import Kernels

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p


def allocated(count: int, dtype: str, offset: int) -> np.ndarray:
    """Elements whose last one is the last of the allocation; each first one ``offset`` elements past 16 bytes' alignment."""
    size = np.dtype(dtype).itemsize
    address = libc.malloc(ctypes.c_size_t((count + offset) * size)) + offset * size
    return np.frombuffer((ctypes.c_char * (count * size)).from_address(address), dtype) if count else np.zeros(0, dtype)


def train(library: Path, config: Config, dtype: str, c: np.ndarray, d: np.ndarray, extent: tuple[int, int, int]) -> None:
    """Forward and backward, with results and a workspace that end where their allocations do."""
    loaded = ctypes.CDLL(str(library))
    for name in ("function_create", "function_destroy", "cuda_workspace", "cuda_forward", "cuda_backward"):
        declare(loaded, f"opau_{name}")
    function, rows = CudaFunction(config, loaded), config.groups
    exact = "float64" if dtype == "float64" else "float32"
    c, d = c.astype(exact), d.astype(exact)
    count = extent[0] * extent[1] * extent[2]
    for offset in (0, 1):
        x, g, y, dx = (allocated(count, dtype, offset) for _ in range(4))
        x[:] = np.resize([0.5, -1.0, 3.0, 1e4], count)
        g[:] = 1
        dc, dd = allocated(c.size, exact, 0), allocated(d.size, exact, 0)
        given = DTYPES[dtype], c.ctypes.data, rows, d.ctypes.data, rows, x.ctypes.data
        for sums in (False, True):
            space = allocated(function.workspace(DTYPES[dtype], rows, extent, sums=sums), "uint8", 0).ctypes.data
            function.forward(*given, y.ctypes.data, extent, space, 0)
            to = (dc.ctypes.data, dd.ctypes.data) if sums else (None, None)
            function.backward(*given, g.ctypes.data, dx.ctypes.data, *to, extent, space, 0)


def main() -> None:
    library, broken = Path(sys.argv[1]), "--break" in sys.argv
    for dtype in ("float32", "float16", "float64"):
        for groups in (1, 3, 100):
            config = Config("hermite_e", degrees=(9, 8) if dtype == "float64" else (5, 4), groups=groups)
            rng = np.random.default_rng(0)
            shape = (groups,) if groups > 1 else ()
            c, d = (rng.uniform(-1, 1, (*shape, n)) for n in (config.numerator_size, config.denominator_size))
            for outer, inner in () if broken else ((1, 1), (3, 1), (2, 7), (2, 40), (1, 1031)):
                train(library, config, dtype, c, d, (outer, groups, inner))
            for upload in (True, False):
                kernels = Kernels(library, config, c, d, dtype, upload)
                for outer, inner in ((1, 1), (3, 1), (2, 7), (1, 100), (1, 1031)):
                    count = outer * groups * inner
                    for a, b in ((0, 0), (1, 1), (1, 0)):
                        x, y = allocated(count, dtype, a), allocated(count, dtype, b)
                        x[:] = rng.standard_normal(count) * 10.0 ** rng.uniform(-3, 4, count)
                        for largest in ((0, 0), (1, 1)):
                            extent = (outer, groups, inner + broken)
                            kernels.run(x, y, extent, largest=largest)
    print("driven")


main()
