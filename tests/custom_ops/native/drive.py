"""Drive the library through onnxruntime and its training interface: every dtype and sharing, odd sizes, in place, threads.

Run under a sanitizer.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from opau_onnx import native
from opau_onnx.core.spec import Config
from opau_onnx.native import training

DTYPES: dict[str, tuple[Any, int]] = {
    "float32": (np.float32, TensorProto.FLOAT), "float64": (np.float64, TensorProto.DOUBLE),
    "float16": (np.float16, TensorProto.FLOAT16), "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}  # fmt: skip


def model(dtype: str, groups: int, axis: int, shape: tuple[int, ...]) -> bytes:
    """Three activations in a chain."""
    exact = np.float64 if dtype == "float64" else np.float32
    rng = np.random.default_rng(0)
    rows = (groups,) if groups > 1 else ()
    values = [numpy_helper.from_array(rng.uniform(0.1, 1, (*rows, n)).astype(exact), name) for n, name in ((6, "c"), (4, "d"))]
    nodes = [
        helper.make_node(
            "OrthogonalPade", [f"x{i}", "c", "d"], [f"x{i + 1}"], domain="ai.opau", basis="hermite_e", form="abs_terms",
            degrees=[5, 4], groups=groups, axis=axis,
        )
        for i in range(3)
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(n, DTYPES[dtype][1], shape) for n in ("x0", "x3")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], values)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.opau", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def drive(library: str, dtype: str, groups: int, axis: int, shape: tuple[int, ...], threads: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model(dtype, groups, axis, shape), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal(shape).astype(DTYPES[dtype][0])

    def run() -> None:
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(x, DTYPES[dtype][1])
        for _ in range(3):
            session.run_with_ort_values(None, {"x0": value})

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def overflow(library: str) -> None:
    """Ask for more elements than the buffer holds."""
    lib = ctypes.CDLL(library)
    lib.opau_run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 5 + [ctypes.c_int]
    out, c, libc = ctypes.c_void_p(), np.ones(6, np.float32), ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    p = ctypes.c_void_p(c.ctypes.data)
    one, minus = ctypes.c_int64(1), ctypes.c_int(-1)
    k, l = ctypes.c_int64(5), ctypes.c_int64(4)
    lib.opau_create(b"power", b"abs_terms", k, l, one, ctypes.c_int(1), p, one, p, one, None, None, minus, ctypes.byref(out))
    short = libc.malloc(100 * 4)
    lib.opau_run(out, short, short, 1, 1, 101, 0, 101, 0)


PARALLEL = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)  # fmt: skip
BODY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


@PARALLEL
def in_threads(begin: int, end: int, grain: int, body: int, context: int) -> int:
    """The caller's threads, three of them."""
    cuts = [begin + (end - begin) * i // 3 for i in range(4)]
    workers = [threading.Thread(target=BODY(body), args=(*pair, context)) for pair in pairwise(cuts) if pair[0] < pair[1]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 0


def train(library: str, dtype: str, groups: int, axis: int, shape: tuple[int, ...], top: int) -> None:
    """Forward and backward on every instruction set, in threads, with ordinary inputs and some far out."""
    opened = native.open_library(library)
    config = Config("hermite_e", "abs_terms", (top, top - 1), groups, axis)
    rng, rows = np.random.default_rng(0), (groups,) if groups > 1 else ()
    given = native.Given(config, rng.uniform(0.1, 1, (*rows, top + 1)), rng.uniform(0.1, 1, (*rows, top - 1)), dtype, None)
    x, g = (rng.standard_normal(shape).astype(DTYPES[dtype][0]) for _ in range(2))
    x.reshape(-1)[::97] *= 10_000
    y, dx, sums = np.empty_like(x), np.empty_like(x), [np.empty_like(v) for v in given.arrays[:2]]
    parallel = ctypes.cast(in_threads, ctypes.c_void_p).value
    for name in native.instruction_sets(opened):
        function = training.Function(config, name, opened)
        common = native.DTYPES[dtype], *given.arguments[6:10], x.ctypes.data
        extent = native.extent(config, shape)
        function.forward(*common, y.ctypes.data, extent, parallel)
        for wanted in (sums, [None, None]):
            addresses = [None if v is None else v.ctypes.data for v in (dx, *wanted)]
            function.backward(*common, g.ctypes.data, *addresses, extent, parallel)


if __name__ == "__main__":
    if "--break" in sys.argv:
        overflow(sys.argv[1])
    for name in DTYPES:
        drive(sys.argv[1], name, 1, 1, (100_003,), 4)
        drive(sys.argv[1], name, 1, 1, (0, 3), 1)
        drive(sys.argv[1], name, 3, 1, (2, 6, 37), 2)
        drive(sys.argv[1], name, 33, -1, (5, 7, 33), 2)
        for top in (5, 9):
            train(sys.argv[1], name, 1, 1, (100_003,), top)
            train(sys.argv[1], name, 3, 1, (3, 6, 7001), top)
            train(sys.argv[1], name, 33, -1, (5, 7, 33), top)
    print("driven")
