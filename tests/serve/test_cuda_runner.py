"""The runner of GPU sessions, on the CPU: the same binding, padding and copying, with the host's memory in the device's place.

Once with plain memory, and once with a CUDA runtime that copies only when it is waited for. test_cuda_gpu.py needs a GPU.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from opau_onnx.errors import LoadError
from opau_onnx.protocol.errors import RunError
from opau_onnx.protocol.tensors import DATATYPES, Array, specs
from opau_onnx.runtime.session import CUDA
from opau_onnx.serve import cuda, model
from opau_onnx.serve.batches import Chunk, run_batch
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.cuda import CudaRunner
from opau_onnx.serve.cuda_graphs import CaptureLock
from opau_onnx.serve.memory import CpuMemory, CudaMemory, CudaRuntime, Memory
from opau_onnx.serve.model import Prepared, ServedModel, prepare
from opau_onnx.serve.sessions import Opened
from opau_onnx.serve.statistics import Statistics
from tests.serve import nets
from tests.serve.cudart import stub
from tests.serve.watched import Watched, watch


class StubMemory(CudaMemory):
    """CUDA's memory, whose device is the host."""

    device = "cpu"


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory: pytest.TempPathFactory) -> CudaRuntime:
    return CudaRuntime(str(stub(tmp_path_factory.mktemp("cudart"))))


@pytest.fixture(params=["host", "stub"])
def memory(request: pytest.FixtureRequest) -> Memory:
    return CpuMemory() if request.param == "host" else StubMemory(0, request.getfixturevalue("stubbed"))


both = pytest.mark.parametrize("graph", [False, True], ids=["direct", "graph"])


def runner(watched: Any, memory: Memory | None, buckets: tuple[int, ...] = (), *, graph: bool = False) -> CudaRunner:
    return CudaRunner(
        watched, specs(watched.get_inputs()), specs(watched.get_outputs()), buckets=buckets, graph=graph, memory=memory
    )


def rows(count: int, start: int = 0, features: int = 4) -> Array:
    return np.arange(start, start + count * features, dtype=np.float32).reshape(count, features)


def two(path: Path) -> Path:
    """Two inputs, two outputs, all but the batch axis fixed."""
    nodes = [helper.make_node("Add", ["a", "a"], ["sum"]), helper.make_node("Neg", ["b"], ["negative"])]
    inputs = [nets.value("a", ["batch", 2]), nets.value("b", ["batch", 3])]
    return nets.write(path, nodes, inputs, [nets.value("sum", ["batch", 2]), nets.value("negative", ["batch", 3])])


def test_any_rows_without_graphs(tmp_path: Path, memory: Memory) -> None:
    run = runner(watch(nets.linear(tmp_path / "m.onnx")), memory).run
    for count in (1, 7, 3, 2000, 0, 5):
        x = rows(count, count)
        assert np.array_equal(run({"x": x})["y"], 2 * x + 1)
    x = rows(6)[::2, ::-1]  # neither contiguous nor in order
    assert np.array_equal(run({"x": x})["y"], 2 * x + 1)


def test_open_axes_without_graphs(tmp_path: Path, memory: Memory) -> None:
    run = runner(watch(nets.pair(tmp_path / "m.onnx")), memory).run
    for count, length in ((2, 3), (1, 900), (5, 1)):
        a, b = rows(count, features=2), rows(count, 7, length)
        found = run({"b": b, "a": a})
        assert np.array_equal(found["sum"], a + a)
        assert np.array_equal(found["negative"], -b)


@both
@pytest.mark.parametrize("name", DATATYPES)
def test_every_type(tmp_path: Path, memory: Memory, name: str, graph: bool) -> None:
    kind = DATATYPES[name]
    run = runner(watch(nets.identity(tmp_path / "m.onnx", kind.element)), memory, (2, 4), graph=graph).run
    x = (np.arange(9).reshape(3, 3) % 2).astype(kind.numpy)
    y = run({"x": x})["y"]
    assert (y.dtype, y.shape, y.tobytes()) == (kind.numpy, x.shape, x.tobytes())


@both
def test_nothing_writes_to_results_again(tmp_path: Path, memory: Memory, graph: bool) -> None:
    run = runner(watch(nets.linear(tmp_path / "m.onnx")), memory, (4,), graph=graph).run
    results = [run({"x": np.full((3, 4), i, np.float32)})["y"] for i in range(5)]
    for i, y in enumerate(results):
        assert np.array_equal(y, np.full((3, 4), 2 * i + 1))
        y[...] = 0  # whoever has it may write to it


def test_outputs_are_let_go_after_a_run(tmp_path: Path, memory: Memory) -> None:
    watched = watch(nets.linear(tmp_path / "m.onnx"))
    runner(watched, memory).run({"x": rows(3)})
    assert watched.bindings[0].get_outputs() == []


def test_graphs_pad_to_the_next_bucket(tmp_path: Path, memory: Memory) -> None:
    watched, buckets = watch(nets.linear(tmp_path / "m.onnx")), (1, 2, 4, 8)
    run = runner(watched, memory, buckets, graph=True).run
    for count in (3, 8, 1, 5, 2, 4, 7, 6, 3, 1):
        x = rows(count, 10 * count)
        assert np.array_equal(run({"x": x})["y"], 2 * x + 1)
        last, bucket = watched.runs[-1], next(b for b in buckets if b >= count)
        assert last.graph == str(1 + buckets.index(bucket))
        assert np.array_equal(last.x, np.concatenate([x, *[x[-1:]] * (bucket - count)]))


def test_graphs_keep_their_addresses(tmp_path: Path, memory: Memory) -> None:
    watched = watch(two(tmp_path / "m.onnx"))
    run = runner(watched, memory, (2, 4), graph=True).run
    bound = [dict(binding.places) for binding in watched.bindings]
    for count in (1, 4, 2, 3) * 3:
        a, b = rows(count, count, 2), rows(count, 1, 3)
        found = run({"a": a, "b": b})
        assert np.array_equal(found["sum"], a + a)
        assert np.array_equal(found["negative"], -b)
        last = watched.runs[-1]
        assert last.graph is not None
        assert last.places == bound[int(last.graph) - 1]
    assert {run.graph for run in watched.runs} == {"1", "2"}  # 0 is a run's that names none, -1 is no graph
    assert len(watched.bindings) == 2


def test_graphs_of_fixed_shapes(tmp_path: Path, memory: Memory) -> None:
    watched = watch(nets.fixed(tmp_path / "m.onnx"))
    run = runner(watched, memory, graph=True).run
    for start in (0, 5):
        x = rows(1, start, 3)
        assert np.array_equal(run({"x": x})["y"], -x)
    assert [run.graph for run in watched.runs] == ["1", "1"]
    with pytest.raises(ValueError, match=r"expected FP32 \[1, 3\]"):
        run({"x": rows(2, 0, 3)})


def test_graphs_run_in_one_thread_of_their_own(tmp_path: Path, memory: Memory) -> None:
    """A captured graph belongs to its thread; the warm-up and the worker are two others."""
    watched = watch(nets.linear(tmp_path / "m.onnx"))
    found, callers, results = runner(watched, memory, (2,), graph=True), [], []

    def call() -> None:
        callers.append(threading.get_ident())
        results.append(found.run({"x": rows(1)})["y"])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len({run.thread for run in watched.runs}) == 1
    assert watched.runs[0].thread not in (*callers, threading.get_ident())
    assert len(results) == 4


def test_a_runner_that_is_dropped_ends_its_thread(tmp_path: Path) -> None:
    watched = watch(nets.linear(tmp_path / "m.onnx"))
    found = runner(watched, CpuMemory(), (2,), graph=True)
    found.run({"x": rows(1)})
    (thread,) = (t for t in threading.enumerate() if t.ident == watched.runs[0].thread)
    del found
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_the_first_run_of_a_bucket_is_alone(tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    class Noting(CaptureLock):
        def running(self) -> Any:
            turns.append("run")
            return super().running()

        def capturing(self) -> Any:
            turns.append("capture")
            return super().capturing()

    monkeypatch.setattr(cuda, "CAPTURE_LOCK", Noting())
    watched = watch(nets.gather(tmp_path / "m.onnx"))
    run = runner(watched, memory, (1, 4), graph=True).run
    turns.clear()
    with pytest.raises(Exception, match="indices"):
        run({"i": np.array([99])})  # a capture that failed is tried again
    for count in (1, 1, 3, 2):
        run({"i": np.zeros(count, np.int64)})
    assert turns == ["capture", "capture", "run", "capture", "run"]


@both
def test_a_run_that_fails_fails_alone(tmp_path: Path, memory: Memory, graph: bool) -> None:
    found = runner(watch(nets.gather(tmp_path / "m.onnx")), memory, (1, 2, 4), graph=graph)
    indices = [np.array([1, 2]), np.array([99]), np.array([3])]
    chunks = [Chunk(SimpleNamespace(), 0, {"i": i}, len(i), 0) for i in indices]  # type: ignore[arg-type]
    good, bad, last = run_batch(found, chunks).results
    assert isinstance(bad, RunError)
    assert isinstance(good, dict)
    assert isinstance(last, dict)
    assert good["y"].tolist() == [[2, 3], [4, 5]]
    assert last["y"].tolist() == [[6, 7]]


@both
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": rows(2, 0, 2).astype(np.float64), "b": rows(2, 0, 3)}, r"'a' is float64 \[2, 2\]; expected FP32"),
        ({"a": rows(2, 0, 2), "b": rows(2, 0, 1)}, r"'b' is float32 \[2, 1\]; expected FP32 \[(-1|2), 3\]"),
        ({"a": rows(2, 0, 2), "b": rows(1, 0, 3)}, None),
    ],
    ids=["type", "axis", "rows"],
)
def test_numpy_converts_and_repeats_nothing(
    tmp_path: Path, memory: Memory, graph: bool, inputs: dict[str, Array], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runner(watch(two(tmp_path / "m.onnx")), memory, (4,), graph=graph)
    if message is None and not graph:  # this model doesn't need the same number of rows; the server asks for it
        assert len(found.run(inputs)["negative"]) == 1
        return
    begun = []
    monkeypatch.setattr(memory, "upload", lambda target, source: begun.append(target))
    with pytest.raises(ValueError, match=message or r"'b' is float32 \[1, 3\]; expected FP32 \[2, 3\]"):
        found.run(inputs)
    assert not begun, "a copy that nobody waits for would outlive its buffers"


@pytest.mark.parametrize("count", [0, 5])
def test_rows_that_no_graph_holds(tmp_path: Path, memory: Memory, count: int) -> None:
    found = runner(watch(nets.linear(tmp_path / "m.onnx")), memory, (1, 4), graph=True)
    with pytest.raises(ValueError, match=rf"a batch has {count} rows; expected 1 to 4"):
        found.run({"x": rows(count)})


def unknown_output(path: Path) -> Path:
    nodes = [helper.make_node("Compress", ["x", "keep"], ["y"], axis=1)]
    inputs = [nets.value("x", ["batch", 2]), nets.value("keep", [2], TensorProto.BOOL)]
    return nets.write(path, nodes, inputs[:1], [nets.value("y", ["batch", "n"])], {"keep": np.array([True, False])})


@pytest.mark.parametrize(
    ("make", "buckets", "message"),
    [
        (nets.pair, (1, 2), r"needs fixed shapes, but b: FP32 \[-1, -1\] has open axes besides the first"),
        (unknown_output, (1, 2), r"needs fixed shapes, but y: FP32 \[-1, -1\] has open axes"),
        (nets.linear, (), r"the first axis of x: FP32 \[-1, 4\] is open and requests are not batched"),
        (nets.fixed, (1, 2), r"needs an open first axis, but x: FP32 \[1, 3\] has none"),
    ],
)
def test_shapes_that_cannot_be_captured(
    tmp_path: Path, make: Callable[[Path], Path], buckets: tuple[int, ...], message: str
) -> None:
    watched = watch(make(tmp_path / "m.onnx"))
    with pytest.raises(LoadError, match=message):
        runner(watched, CpuMemory(), buckets, graph=True)
    assert not watched.bindings


class OnCuda(Watched):
    """A CPU session that says it is a GPU's."""

    options: dict[str, str] = {"device_id": "0", "enable_cuda_graph": "1"}  # noqa: RUF012
    hosts: tuple[str, ...] = ()

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: self.options}

    def _places(self, tensors: list[Any]) -> list[Any]:
        return [SimpleNamespace(name="Cpu" if tensor.name in self.hosts else "Cuda") for tensor in tensors]

    def get_input_memory_infos(self) -> list[Any]:
        return self._places(self.real.get_inputs())

    def get_output_memory_infos(self) -> list[Any]:
        return self._places(self.real.get_outputs())


def test_sessions_that_cannot_be_captured(tmp_path: Path) -> None:
    found = OnCuda(watch(two(tmp_path / "m.onnx")).real)
    found.options = {"device_id": "0", "enable_cuda_graph": "0"}
    with pytest.raises(LoadError, match="made without CUDA graphs"):
        runner(found, None, (1, 2), graph=True)
    found.options = OnCuda.options
    for name in ("b", "negative"):
        found.hosts = (name,)
        with pytest.raises(LoadError, match=f"{name} stays in the host's memory"):
            runner(found, None, (1, 2), graph=True)


def test_the_gpu_of_the_session_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[int] = []

    def memory(index: int) -> Memory:
        taken.append(index)
        return CpuMemory()

    monkeypatch.setattr(cuda, "CudaMemory", memory)
    found = OnCuda(watch(nets.linear(tmp_path / "m.onnx")).real)
    found.options = {"device_id": "3", "enable_cuda_graph": "1"}
    caplog.set_level("INFO", "opau_onnx.serve")
    assert runner(found, None, (2,), graph=True).run({"x": rows(1)})["y"].shape == (1, 4)
    assert taken == [3]
    assert "Mul, CPUExecutionProvider" in caplog.text  # nodes that are not on the GPU


def served(path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Prepared, Watched]:
    """Prepared as on a GPU."""
    watched: list[Watched] = []

    def runners(settings: ModelSettings, opened: Opened, buckets: tuple[int, ...]) -> list[CudaRunner]:
        watched.append(Watched(opened.sessions[0]))
        return [runner(watched[0], memory, buckets, graph=True)]

    monkeypatch.setattr(model, "runners", runners)
    return prepare("m", ModelSettings(path=str(path), device="cpu", **settings)), watched[0]


def test_warmed_up_and_served_through_the_queue(tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, watched = served(nets.linear(tmp_path / "m.onnx"), memory, monkeypatch, max_batch_size=8)
    assert {run.graph for run in watched.runs} == {"1", "2", "3", "4"}
    generator = np.random.default_rng(0)
    requests = [generator.standard_normal((int(n), 4), np.float32) for n in generator.integers(1, 20, 200)]

    async def test() -> list[dict[str, Array]]:
        batcher = ServedModel("m", prepared, Statistics()).batcher
        deadline = asyncio.get_running_loop().time() + 30
        try:
            return await asyncio.gather(*(batcher.submit({"x": x}, deadline).future for x in requests))
        finally:
            batcher.close()

    for x, answer in zip(requests, asyncio.run(test()), strict=True):
        assert np.array_equal(answer["y"], x * np.float32(2) + 1)
    assert len({run.thread for run in watched.runs}) == 1


def test_rows_that_depend_on_each_other_are_found_out(tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="over the rows of a batch"):
        served(nets.mixing(tmp_path / "m.onnx"), memory, monkeypatch, max_batch_size=8)
