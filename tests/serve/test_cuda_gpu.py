"""The runner of GPU sessions on a GPU, against the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from opau_onnx import create_session
from opau_onnx.core.spec import Config
from opau_onnx.errors import LoadError
from opau_onnx.protocol.tensors import DATATYPES, Array, specs
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.session import CUDA
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.devices import device_memory
from opau_onnx.serve.memory import CudaMemory
from opau_onnx.serve.model import Prepared, prepare
from opau_onnx.serve.sessions import CpuRunner
from tests.export import single
from tests.runtime.cuda import required_cuda
from tests.serve import nets

BUCKETS = (1, 2, 4, 8)


@pytest.fixture(autouse=True)
def _cuda() -> None:
    required_cuda()


def prepared(path: Path, **settings: Any) -> Prepared:
    found = prepare("m", ModelSettings(path=str(path), device="cuda", **settings))
    assert found.opened.on_cuda
    return found


def on_cpu(path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    session = create_session(path, "cpu")
    return CpuRunner(session, specs(session.get_inputs()), specs(session.get_outputs())).run(inputs)


def activation(path: Path, dtype: str) -> Path:
    """Rows of 6 through a learned activation."""
    case = single.Case(Config("hermite_e", groups=3), dtype, per_group=(True, True))
    made = single.model(case, ["batch", 6], single.coefficients(case))
    onnx.save(made, path)
    return path


def convolution(path: Path) -> Path:
    """Two convolutions and a flattening whose shape comes from the input's."""
    generator = np.random.default_rng(0)
    weights = {f"w{i}": generator.standard_normal((8, 3 if i == 0 else 8, 3, 3), np.float32) / 5 for i in range(2)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["c"], ["shape"], start=0, end=1),
        helper.make_node("Concat", ["shape", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["c", "flat"], ["y"]),
    ]
    inputs, outputs = [nets.value("x", ["batch", 3, 16, 16])], [nets.value("y", ["batch", 2048])]
    return nets.write(path, nodes, inputs, outputs, {**weights, "rest": np.array([2048])})


@pytest.mark.parametrize("graph", [False, True], ids=["direct", "graph"])
@pytest.mark.parametrize("dtype", list(single.NUMPY))
def test_activations_have_the_cpus_bits(tmp_path: Path, dtype: str, graph: bool) -> None:
    path = activation(tmp_path / "m.onnx", dtype)
    found = prepared(path, max_batch_size=8, cuda_graph=graph)
    assert {a.provider for a in assignments(found.opened.sessions[0])} == {CUDA}
    generator = np.random.default_rng(0)
    for count in (*range(1, 9), *range(8, 0, -1)):
        x = (generator.standard_normal((count, 6)) * 3).astype(single.NUMPY[dtype])
        y = found.runners[0].run({"x": x})["y"]
        assert y.tobytes() == on_cpu(path, {"x": x})["y"].tobytes(), count


@pytest.mark.parametrize("graph", [False, True], ids=["direct", "graph"])
def test_a_network_from_other_threads(tmp_path: Path, graph: bool) -> None:
    """The thread that warms up is not the one that serves."""
    path = convolution(tmp_path / "m.onnx")
    found = prepared(path, max_batch_size=8, cuda_graph=graph, instances=2)
    assert len(found.runners) == 2
    wrong: list[str] = []

    def work(number: int) -> None:
        generator = np.random.default_rng(number)
        for turn in range(40):
            x = generator.standard_normal((int(generator.integers(1, 9)), 3, 16, 16), np.float32)
            y = found.runners[number].run({"x": x})["y"]
            if not np.allclose(y, on_cpu(path, {"x": x})["y"], rtol=2e-2, atol=2e-2):  # TF32
                wrong.append(f"{number}, turn {turn}, {len(x)} rows")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_capture_beside_a_model_that_serves(tmp_path: Path) -> None:
    serving = prepared(nets.linear(tmp_path / "a.onnx"), max_batch_size=8, cuda_graph=True)
    path, stop, failed = convolution(tmp_path / "b.onnx"), threading.Event(), []

    def serve() -> None:
        while not stop.is_set():
            try:
                x = np.ones((3, 4), np.float32)
                if not np.array_equal(serving.runners[0].run({"x": x})["y"], 2 * x + 1):
                    failed.append("wrong")
            except Exception as error:
                failed.append(str(error))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(3):
            prepared(path, max_batch_size=8, cuda_graph=True)
    finally:
        stop.set()
        thread.join()
    assert not failed


@pytest.mark.parametrize("name", DATATYPES)
def test_every_type(tmp_path: Path, name: str) -> None:
    kind = DATATYPES[name]
    found = prepared(nets.identity(tmp_path / "m.onnx", kind.element), max_batch_size=4)
    x = (np.arange(9).reshape(3, 3) % 2).astype(kind.numpy)
    assert found.runners[0].run({"x": x})["y"].tobytes() == x.tobytes()


def test_open_axes(tmp_path: Path) -> None:
    found = prepared(nets.pair(tmp_path / "m.onnx"), max_batch_size=4, input_shapes={"b": (1, 5)})
    for length in (5, 1, 7000):
        b = np.full((2, length), 3, np.float32)
        assert np.array_equal(found.runners[0].run({"a": np.ones((2, 2), np.float32), "b": b})["negative"], -b)


def test_a_node_that_has_no_cuda_kernel_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Det", ["n"], ["y"], name="the_det")]
    path = nets.write(
        tmp_path / "m.onnx", nodes, [nets.value("x", ["batch", 2, 2])], [nets.value("y", ["batch"], TensorProto.FLOAT)]
    )
    with pytest.raises(LoadError, match=r"the_det \(Det, CPUExecutionProvider\)"):
        prepared(path, cuda_graph=True)


def test_memory_is_pinned_and_counted() -> None:
    memory = CudaMemory(0)
    memory.enter()
    host = memory.pinned(1000)
    host[...] = 7
    assert device_memory()
