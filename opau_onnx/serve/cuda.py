"""Runs sessions on a GPU: inputs and outputs bound to device memory, pinned memory on the host, CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.protocol.tensors import DATATYPES, Array, TensorSpec
from opau_onnx.runtime.session import CUDA, quiet_run
from opau_onnx.serve.cuda_graphs import CAPTURE_LOCK, check_session, check_shapes, nodes_off_gpu
from opau_onnx.serve.memory import CudaMemory, Memory

logger = logging.getLogger("opau_onnx.serve")
GRAPH_ID = "gpu_graph_id"
"""Run option that names the graph to replay, or to capture where there is none yet. 0 is that of runs without the option and -1
means no graph, so ours begin at 1."""


class CudaRunner:
    """Runs one session, one batch at a time.

    With graphs, everything happens in a thread of the runner's own: onnxruntime keeps a captured graph for the thread that
    captured it, and would capture anew in the worker's what was captured during the warm-up.

    Args:
        session: on the CUDA provider; for graphs, made with its option enable_cuda_graph.
        inputs, outputs: of the session.
        buckets: row counts, ascending, up to which batches are padded where there are graphs; without any, every shape must be
            fixed. They don't matter without graphs.
        graph: capture a CUDA graph for each bucket in its first run, and replay it in all others.
        memory: of the session's device; the default is that of its GPU.

    Raises:
        LoadError: the model cannot be run by CUDA graphs.
        DeviceError: CUDA fails.
    """

    def __init__(
        self,
        session: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        buckets: tuple[int, ...],
        graph: bool,
        memory: Memory | None = None,
    ) -> None:
        if graph:
            check_shapes(inputs, outputs, buckets)
            if memory is None:
                check_session(session)
                _tell(session)
        memory = memory or CudaMemory(_index(session))
        self._memory = memory
        self._thread = ThreadPoolExecutor(1, "opau-cuda") if graph else None
        with CAPTURE_LOCK.running():
            memory.enter()
            self._way = (
                _Replay(session, inputs, outputs, buckets, memory) if graph else _Direct(session, inputs, outputs, memory)
            )

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """See :meth:`opau_onnx.serve.batches.Runner.run`.

        Raises:
            ValueError: an array is not of the model's type, or with graphs has other axes or more rows than the largest bucket.
            DeviceError: CUDA fails.
        """
        if self._thread is None:
            return self._run(inputs)
        return self._thread.submit(self._run, inputs).result()

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        with self._way.turn(inputs):
            self._memory.enter()
            return self._way.run(inputs)


def _index(session: Any) -> int:
    return int(session.get_provider_options()[CUDA].get("device_id", 0))


def _tell(session: Any) -> None:
    nodes = nodes_off_gpu(session)
    if nodes:
        logger.info("the CUDA graphs keep what these nodes compute from the shapes: %s", ", ".join(nodes))


class _Staging:
    """Pinned memory for one tensor, and as much on the device where that is asked for; grows."""

    def __init__(self, memory: Memory, spec: TensorSpec, *, on_device: bool) -> None:
        self.spec, self.element = spec, DATATYPES[spec.datatype].element
        self._memory, self._on_device = memory, on_device
        self._host: Array = np.empty(0, np.uint8)
        self._device: Any = None

    def view(self, shape: Sequence[int]) -> Array:
        """Pinned memory as an array of this shape; its content stays until the next call with a larger one."""
        count = int(np.prod(shape, dtype=np.int64))
        size = count * self.spec.dtype.itemsize
        if size > self._host.nbytes or not self._host.nbytes:
            self._grow(size)
        return self._host[:size].view(self.spec.dtype).reshape(shape)

    def _grow(self, size: int) -> None:
        from onnxruntime import OrtValue

        self._host = self._memory.pinned(size)
        if self._on_device:
            # As bytes: numpy has no name for bfloat16.
            shape = [self._host.nbytes]
            self._device = OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._memory.device, self._memory.index)

    @property
    def address(self) -> int:
        """On the device."""
        return int(self._device.data_ptr())

    def place(self, shape: Sequence[int]) -> tuple[str, str, int, int, list[int], int]:
        """Arguments of onnxruntime's binding."""
        return self.spec.name, self._memory.device, self._memory.index, self.element, list(shape), self.address


class _Direct:
    """Any shapes: the inputs are bound to buffers that grow, onnxruntime allocates the outputs."""

    def __init__(self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], memory: Memory) -> None:
        self._quiet = quiet_run()
        self._session, self._memory, self._binding = session, memory, session.io_binding()
        self._inputs = [_Staging(memory, spec, on_device=True) for spec in inputs]
        self._outputs = [_Staging(memory, spec, on_device=False) for spec in outputs]

    def turn(self, inputs: dict[str, Array]) -> AbstractContextManager[None]:
        """When a run may be."""
        return CAPTURE_LOCK.running()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        binding, memory = self._binding, self._memory
        try:
            # All are checked before any is uploaded: a copy that nobody waits for could outlive its buffers.
            arrays = [_checked(staging.spec, inputs) for staging in self._inputs]
            for staging, array in zip(self._inputs, arrays, strict=True):
                view = staging.view(array.shape)
                view[...] = array
                memory.upload(staging.address, view)
                binding.bind_input(*staging.place(array.shape))
            for staging in self._outputs:
                binding.bind_output(staging.spec.name, memory.device, memory.index)
            memory.wait()
            self._session.run_with_iobinding(binding, self._quiet)
            return self._fetched(binding.get_outputs())
        finally:  # onnxruntime would write the next outputs into the last ones
            binding.clear_binding_inputs()
            binding.clear_binding_outputs()

    def _fetched(self, values: Sequence[Any]) -> dict[str, Array]:
        views = {}
        for staging, value in zip(self._outputs, values, strict=True):
            views[staging.spec.name] = view = staging.view(value.shape())
            self._memory.download(view, value.data_ptr())
        self._memory.wait()
        return {name: view.copy() for name, view in views.items()}


@dataclass
class _Graph:
    """One graph: what it is bound to, and whether it was captured. ``rows`` is None where the shapes are fixed."""

    rows: int | None
    binding: Any
    options: Any
    captured: bool = False


class _Replay:
    """Fixed shapes: one graph for each bucket, all on the same buffers, which are as large as the largest needs."""

    def __init__(
        self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], buckets: Sequence[int], memory: Memory
    ) -> None:
        self._session, self._memory = session, memory
        self._inputs = [_Staging(memory, spec, on_device=True) for spec in inputs]
        self._outputs = [_Staging(memory, spec, on_device=True) for spec in outputs]
        sizes: tuple[int | None, ...] = tuple(buckets) or (None,)
        for staging in (*self._inputs, *self._outputs):
            staging.view(_shape(staging.spec, sizes[-1]))
        self._graphs = [self._graph(number, rows) for number, rows in enumerate(sizes, 1)]

    def _graph(self, number: int, rows: int | None) -> _Graph:
        binding, options = self._session.io_binding(), quiet_run()
        for staging in self._inputs:
            binding.bind_input(*staging.place(_shape(staging.spec, rows)))
        for staging in self._outputs:
            binding.bind_output(*staging.place(_shape(staging.spec, rows)))
        options.add_run_config_entry(GRAPH_ID, str(number))
        return _Graph(rows, binding, options)

    def turn(self, inputs: dict[str, Array]) -> AbstractContextManager[None]:
        """When a run may be."""
        return CAPTURE_LOCK.running() if self._choose(inputs).captured else CAPTURE_LOCK.capturing()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        graph, memory = self._choose(inputs), self._memory
        rows = None if graph.rows is None else _rows(self._inputs[0].spec, inputs)
        arrays = [_checked(staging.spec, inputs, rows) for staging in self._inputs]  # before any upload, as above
        for staging, array in zip(self._inputs, arrays, strict=True):
            view = staging.view(_shape(staging.spec, graph.rows))
            _fill(view, array, rows)
            memory.upload(staging.address, view)
        memory.wait()
        self._session.run_with_iobinding(graph.binding, graph.options)
        graph.captured = True
        views = dict(self._downloads(rows))
        memory.wait()
        return {name: view.copy() for name, view in views.items()}

    def _downloads(self, rows: int | None) -> Iterator[tuple[str, Array]]:
        for staging in self._outputs:
            view = staging.view(_shape(staging.spec, rows))
            self._memory.download(view, staging.address)
            yield staging.spec.name, view

    def _choose(self, inputs: dict[str, Array]) -> _Graph:
        """The smallest graph that holds the rows."""
        if self._graphs[0].rows is None:
            return self._graphs[0]
        rows, largest = _rows(self._inputs[0].spec, inputs), self._graphs[-1].rows
        found = next((graph for graph in self._graphs if graph.rows is not None and rows <= graph.rows), None)
        if found is None or not rows:
            raise ValueError(f"a batch has {rows} rows; expected 1 to {largest}, the largest that a CUDA graph was made for")
        return found


def _shape(spec: TensorSpec, rows: int | None) -> tuple[int, ...]:
    return spec.shape if rows is None else (rows, *spec.shape[1:])


def _rows(spec: TensorSpec, inputs: dict[str, Array]) -> int:
    array = _checked(spec, inputs)
    return len(array) if array.ndim else 0


def _checked(spec: TensorSpec, inputs: dict[str, Array], rows: int | None = None) -> Array:
    """An input, which numpy would convert or repeat without a word."""
    array, shape = inputs[spec.name], _shape(spec, rows)
    if (
        array.dtype != spec.dtype
        or len(array.shape) != len(shape)
        or any(want not in (-1, got) for want, got in zip(shape, array.shape, strict=True))
    ):
        raise ValueError(f"input {spec.name!r} is {array.dtype} {list(array.shape)}; expected {spec.datatype} {list(shape)}")
    return array


def _fill(view: Array, array: Array, rows: int | None) -> None:
    """Copy rows, and repeat the last one to the end: it is an input that the model takes, as zeros need not be."""
    view[:rows] = array
    if rows is not None:
        view[rows:] = array[-1]
