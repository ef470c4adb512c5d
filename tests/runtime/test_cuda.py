"""The CUDA kernels on a GPU, through onnxruntime, against the CPU kernels: the same operations, so the same bits."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from opau_onnx import create_session, native
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.runtime.assignment import assignments
from tests.export import single
from tests.export.single import Case
from tests.runtime.cuda import CUDA, DeviceArray, required_cuda

DTYPES = tuple(single.NUMPY)
ONNX_TYPE = native.DTYPES
CONFIGS = [Config(b, f, d) for b in BASES for f in FORMS for d in ((5, 4), (9, 8))]
SHAPES = [(3, 6, 0), (2, 6, 7), (5, 6, 1), (2, 6, 33, 31), (2, 6, 1024), (1, 6, 70_001)]
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@pytest.fixture(autouse=True)
def _cuda() -> None:
    required_cuda()


def session_for(case: Case, rank: int = 1, values: Any = None, **arguments: Any) -> onnxruntime.InferenceSession:
    file = single.model(case, [None] * rank, values)
    session = create_session(file, "cuda", library=True, **arguments)
    assert {(a.provider, a.implementation) for a in assignments(session)} == {(CUDA, "kernel")}
    return session


def bound(session: onnxruntime.InferenceSession, dtype: str, x: DeviceArray, y: DeviceArray) -> Any:
    binding = session.io_binding()
    binding.bind_input("x", "cuda", 0, ONNX_TYPE[dtype], list(x.shape), x.address)
    binding.bind_output("y", "cuda", 0, ONNX_TYPE[dtype], list(y.shape), y.address)
    return binding


def on_gpu(session: onnxruntime.InferenceSession, dtype: str, x: Any, offsets: tuple[int, int] = (0, 0)) -> Any:
    source, target = DeviceArray(x, offsets[0]), DeviceArray(np.zeros_like(x), offsets[1])
    session.run_with_iobinding(bound(session, dtype, source, target))
    assert same(source.get(), x), "the input was written to"
    return target.get()


def same(a: Any, b: Any) -> bool:
    """Equal bits; any NaN equals any other."""
    integers = BITS[a.dtype.itemsize]
    with np.errstate(invalid="ignore"):
        return bool(np.all((a.view(integers) == b.view(integers)) | (np.isnan(a) & np.isnan(b))))


def on_cpu(case: Case, values: Any, x: Any) -> Any:
    return native.Activation(case.config, *values, case.dtype)(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_same_bits_as_the_cpu_kernel(config: Config, dtype: str) -> None:
    case = Case(config, dtype)
    values, x = single.coefficients(case), single.inputs(case, 20_011)
    assert same(on_gpu(session_for(case, 1, values), dtype, x), on_cpu(case, values, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("groups", [2, 6])
def test_groups(groups: int, own: tuple[bool, bool], dtype: str) -> None:
    case = Case(Config("hermite_e", groups=groups), dtype, per_group=own)
    values = single.coefficients(case)
    for shape in SHAPES:
        x = np.resize(single.inputs(case, 1000), shape)
        y = on_gpu(session_for(case, len(shape), values), dtype, x)
        assert same(y, on_cpu(case, values, x)), shape


@pytest.mark.parametrize("shape", [(2, 1500), (2, 1500, 7), (1, 1500, 2048)], ids=str)
def test_more_groups_than_one_launch_holds(shape: tuple[int, ...]) -> None:
    case = Case(Config("legendre", groups=1500), per_group=(True, True))
    values = single.coefficients(case)
    x = np.resize(single.inputs(case, 5000), shape)
    assert same(on_gpu(session_for(case, len(shape), values), "float32", x), on_cpu(case, values, x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_size_at_any_alignment(dtype: str) -> None:
    case = Case(Config(), dtype)
    values = single.coefficients(case)
    session = session_for(case, 1, values)
    for size in (0, 1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 255, 257, 4095, 65_537, 1_000_001):
        x = np.resize(single.inputs(case, 5000), size)
        expected = on_cpu(case, values, x)
        for offsets in ((0, 0), (1, 1), (3, 3), (1, 0), (0, 1), (5, 2)):
            assert same(on_gpu(session, dtype, x, offsets), expected), (size, offsets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_within_the_oracles_bound(dtype: str) -> None:
    case = Case(Config(), dtype)
    values, x = single.coefficients(case), single.inputs(case)
    single.check(case, x, values, single.wide(on_gpu(session_for(case, 1, values), dtype, x)), "CUDA")


def test_coefficients_that_are_no_constants() -> None:
    case = Case(Config("chebyshev", groups=3), per_group=(True, True))
    session, x = session_for(case, 2), np.resize(single.inputs(case), (50, 6))
    for factor in (1.0, 0.5):
        values = tuple((v * factor).astype(v.dtype) for v in single.coefficients(case))
        feed = dict(zip(("x", "numerator", "denominator"), (x, *values), strict=True))
        assert same(session.run(None, feed)[0], on_cpu(case, values, x))


def chain(case: Case, values: Any, length: int) -> onnx.ModelProto:
    file = single.model(case, ["N"], values)
    node = file.graph.node[0]
    del file.graph.node[:]
    for i in range(length):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.input[0] = f"n{i}", "x" if i == 0 else f"v{i}"
        copy.output[:] = ["y" if i == length - 1 else f"v{i + 1}"]
        file.graph.node.append(copy)
    return file


def test_a_chain_runs_in_place_and_without_copies(tmp_path: Any) -> None:
    case = Case(Config())
    values, x = single.coefficients(case), np.linspace(-5, 5, 100_003, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = create_session(chain(case, values, 8), "cuda", library=True, session_options=options)
    assert [a.operations for a in assignments(session)] == [8]
    operators = {n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert operators == {"OrthogonalPade"}  # no copy between host and device, of coefficients either
    expected = x
    for _ in range(8):
        expected = on_cpu(case, values, expected)
    assert same(on_gpu(session, "float32", x), expected)


def test_a_cuda_graph_is_captured_and_replayed() -> None:
    case = Case(Config("hermite_e", groups=3), per_group=(True, True))
    values = single.coefficients(case)
    x = np.resize(single.inputs(case, 999), (3, 6, 500))
    session = session_for(case, 3, values, provider_options={"enable_cuda_graph": "1"})
    source, target = DeviceArray(x), DeviceArray(np.zeros_like(x))
    binding = bound(session, "float32", source, target)
    for factor in (1.0, 0.5, -2.0, 3.0):  # the first runs capture, the later ones replay
        with np.errstate(all="ignore"):
            source.put(x * np.float32(factor))
            expected = on_cpu(case, values, x * np.float32(factor))
        session.run_with_iobinding(binding)
        assert same(target.get(), expected), factor


def test_two_streams_at_once() -> None:
    """Two sessions, each on a stream of its own that the test made, in two threads."""
    runtime = ctypes.CDLL("libcudart.so.13")
    case = Case(Config())
    values = single.coefficients(case)
    wrong: list[str] = []

    def work(scale: float) -> None:
        stream = ctypes.c_void_p()
        assert runtime.cudaStreamCreateWithFlags(ctypes.byref(stream), 1) == 0  # non-blocking
        session = session_for(case, 1, values, provider_options={"user_compute_stream": str(stream.value)})
        x = (np.linspace(-3, 3, 500_009) * scale).astype(np.float32)
        source, target = DeviceArray(x), DeviceArray(np.zeros_like(x))
        binding, expected = bound(session, "float32", source, target), on_cpu(case, values, x)
        for turn in range(20):
            session.run_with_iobinding(binding)
            if not same(target.get(), expected):
                wrong.append(f"{scale}, turn {turn}")

    threads = [threading.Thread(target=work, args=(scale,)) for scale in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bad_coefficients_name_the_node() -> None:
    case = Case(Config())
    session = session_for(case, 1)
    c, d = single.coefficients(case)
    c[2] = np.nan
    with pytest.raises(Exception, match=r"OrthogonalPade node '.*': the numerator's coefficient 2 is NaN"):
        session.run(None, {"x": np.zeros(3, np.float32), "numerator": c, "denominator": d})


def test_more_than_two_to_the_thirty_one_elements() -> None:
    case = Case(Config(), "float16")
    values = single.coefficients(case)
    count = 2**31 + 12_345
    session = session_for(case, 1, values)
    try:
        x, y = (onnxruntime.OrtValue.ortvalue_from_shape_and_type([count], np.float16, "cuda", 0) for _ in range(2))
    except Exception as error:
        pytest.skip(f"no room on the device: {error}")
    runtime = ctypes.CDLL("libcudart.so.13")
    one, nought = np.float16(1).view(np.uint16), np.float16(0)
    assert runtime.cudaMemset(ctypes.c_void_p(x.data_ptr()), 0, ctypes.c_size_t(2 * count)) == 0
    last = ctypes.c_void_p(x.data_ptr() + 2 * (count - 1))
    assert runtime.cudaMemcpy(last, one.tobytes(), ctypes.c_size_t(2), 1) == 0
    binding = session.io_binding()
    binding.bind_input("x", "cuda", 0, ONNX_TYPE["float16"], [count], x.data_ptr())
    binding.bind_output("y", "cuda", 0, ONNX_TYPE["float16"], [count], y.data_ptr())
    session.run_with_iobinding(binding)
    found = np.zeros(4, np.float16)
    end = ctypes.c_void_p(y.data_ptr() + 2 * (count - 4))
    assert runtime.cudaMemcpy(found.ctypes.data_as(ctypes.c_void_p), end, ctypes.c_size_t(8), 2) == 0
    assert same(found, on_cpu(case, values, np.array([nought, nought, nought, 1.0], np.float16)))
