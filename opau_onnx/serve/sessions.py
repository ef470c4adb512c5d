"""onnxruntime sessions for serving: how they are made, how a worker runs them, and what they say of themselves."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opau_onnx.errors import DeviceError, LoadError, OpauError, SpecError
from opau_onnx.graph import coverage as models
from opau_onnx.graph.rows import over_rows
from opau_onnx.protocol.tensors import DATATYPES, Array, TensorSpec, specs
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.session import CPU, CUDA, create_session, quiet_run
from opau_onnx.serve.batches import Runner
from opau_onnx.serve.config import ModelSettings, usable_cores
from opau_onnx.serve.cuda_graphs import CAPTURE_LOCK, explained

CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
"""Of onnxruntime's CUDA provider. Its default searches longer, and anew for each number of rows, while requests wait."""
LARGEST_BYTES = 2**31 - 1
"""Of a model in memory: protobuf's limit."""


@dataclass(frozen=True)
class Opened:
    """A model's sessions.

    Attributes:
        sessions: one on the CPU, whose runs may be side by side; one for each instance on a GPU.
        inputs, outputs: of the graph.
        symbols: the name of each tensor's first axis where it is open, "" where it has no name, None where it is fixed.
        implementation: what runs the learned activations: "kernel", "function", both with a comma, or "none" without any.
        sha256: of the file.
        over_rows: why rows of a batch depend on each other, by the graph; None where no node shows it.
    """

    sessions: tuple[Any, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: dict[str, str | None]
    implementation: str
    sha256: str
    over_rows: str | None

    @property
    def provider(self) -> str:
        """onnxruntime's name of the execution provider that comes first."""
        return str(self.sessions[0].get_providers()[0])

    @property
    def on_cuda(self) -> bool:
        """True where it runs on a GPU."""
        return self.provider == CUDA


def open_model(settings: ModelSettings) -> Opened:
    """Read a model once and make its sessions.

    Raises:
        LoadError: the file cannot be read, or is no model that can be served.
        OpauError: what :func:`opau_onnx.create_session` raises.
    """
    path = Path(settings.path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        graph = models.parsed(content)
    except SpecError as error:
        raise LoadError(f"{path}: {error}") from None
    # The bytes, not the path: a file that is replaced meanwhile would be read half old and half new.
    source: Any = path if models.read(graph).external else content
    sessions = [_session(source, settings, path)]
    if sessions[0].get_providers()[0] == CUDA:
        sessions += [_session(source, settings, path) for _ in range(max(1, settings.instances) - 1)]
    first = sessions[0]
    try:
        inputs, outputs = specs(first.get_inputs()), specs(first.get_outputs())
    except ValueError as error:
        raise LoadError(f"{path} cannot be served: {error}") from None
    symbols = {a.name: _symbol(a.shape) for a in (*first.get_inputs(), *first.get_outputs())}
    found = sorted({a.implementation for a in assignments(first)})
    return Opened(
        tuple(sessions), inputs, outputs, symbols, ", ".join(found) or "none", hashlib.sha256(content).hexdigest(),
        over_rows(graph),
    )  # fmt: skip


def _symbol(shape: list[Any]) -> str | None:
    if not shape or isinstance(shape[0], int):
        return None
    return str(shape[0] or "")


def _session(source: Any, settings: ModelSettings, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    # A thread that spins takes the core from the other workers and from the server.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    library: Any = {"auto": "auto", "yes": True, "no": False}.get(settings.library, settings.library)
    if settings.cuda_graph and settings.device == "cpu":
        raise DeviceError("cuda_graph was asked for on the CPU; use device 'cuda'")

    def make(**graphs: str) -> Any:
        return create_session(
            source, settings.device, library=library, session_options=options, provider_options={**CUDA_OPTIONS, **graphs}
        )

    with CAPTURE_LOCK.creating():
        try:
            session = make(enable_cuda_graph="1") if settings.cuda_graph else make()
        except OpauError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise LoadError(f"onnxruntime cannot load {path}: {explained(error, make)}") from None
    if settings.cuda_graph and session.get_providers()[0] == CPU:
        raise DeviceError("cuda_graph was asked for, but the model runs on the CPU; use device 'cuda' to see why")
    return session


def instances(settings: ModelSettings, opened: Opened) -> int:
    """Workers: as asked, else one a GPU session, or one for each core on the CPU."""
    if opened.on_cuda:
        return len(opened.sessions)
    return settings.instances or max(1, usable_cores() // settings.threads)


def runners(settings: ModelSettings, opened: Opened, buckets: tuple[int, ...]) -> list[Runner]:
    """One for each worker."""
    if opened.on_cuda:
        from opau_onnx.serve.cuda import CudaRunner

        return [
            CudaRunner(session, opened.inputs, opened.outputs, buckets=buckets, graph=settings.cuda_graph)
            for session in opened.sessions
        ]
    return [CpuRunner(opened.sessions[0], opened.inputs, opened.outputs)] * instances(settings, opened)


class CpuRunner:
    """Runs a session on the CPU; several threads may do so at once."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._session = session
        self._names = [spec.name for spec in outputs]
        # onnxruntime's numpy interface knows no bfloat16.
        self._plain = all(spec.datatype != "BF16" for spec in (*inputs, *outputs))
        self._elements = {spec.name: DATATYPES[spec.datatype].element for spec in inputs}
        self._options = quiet_run()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """See :meth:`opau_onnx.serve.batches.Runner.run`."""
        if self._plain:
            return dict(zip(self._names, self._session.run(self._names, inputs, self._options), strict=True))
        feed = {name: ort_value(array, self._elements[name]) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(self._names, feed, self._options)
        return {name: from_ort_value(value) for name, value in zip(self._names, values, strict=True)}


def ort_value(array: Array, element: int) -> Any:
    """onnxruntime's tensor of an array; ``element`` is ONNX's data type."""
    import onnxruntime

    if element == DATATYPES["BF16"].element:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, element)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def from_ort_value(value: Any) -> Array:
    """The array of a tensor in the CPU's memory."""
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    size = value.tensor_size_in_bytes()
    content = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(content, DATATYPES["BF16"].numpy).reshape(value.shape())
