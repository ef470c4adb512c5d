"""onnxruntime sessions that run from and into memory given beforehand, and that say who ran each node.

Nothing here was ever run on a GPU: the CUDA paths are written from the documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnxruntime

from opau_onnx.errors import BenchError
from opau_onnx.runtime.session import Device, create_session

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Memory:
    """A flat tensor's place.

    Attributes:
        address: of its first element, on the device.
        shape: of the tensor.
        onnx_type: number of its element type (TensorProto.DataType).
        owner: kept as long as the memory is used.
    """

    address: int
    shape: tuple[int, ...]
    onnx_type: int
    owner: Any


class Session:
    """A model on one device, all sessions on the process's one pool of threads (:mod:`opau_onnx.bench.threads`).

    Args:
        model: a file's content or its path.
        device: "cpu" or "cuda".
        library: path of a library of custom ops to register.
        optimize: let :func:`opau_onnx.create_session` rewrite the model for this machine, as its users get it.

    Raises:
        BenchError: onnxruntime refuses the model, or the device.
    """

    def __init__(self, model: bytes | str, device: str, library: str | None = None, *, optimize: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.use_per_session_threads = False
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        provider = PROVIDERS[device]
        try:
            if optimize and library is not None:
                where: Device = "cuda" if device == "cuda" else "cpu"
                self._session = create_session(model, where, library=library, session_options=options)
            else:
                if library is not None:
                    options.register_custom_ops_library(library)
                self._session = onnxruntime.InferenceSession(model, options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise BenchError(_first_line(error)) from None
        if provider not in self._session.get_providers():
            raise BenchError(f"onnxruntime cannot use {provider} here: it offers {', '.join(self._session.get_providers())}")
        self.device = device

    def nodes(self) -> list[tuple[str, str]]:
        """(provider, operator) of every node, as onnxruntime recorded when it distributed them."""
        return [(g.ep_name, n.op_type) for g in self._session.get_provider_graph_assignment_info() for n in g.get_nodes()]

    def prepare(self, x: Memory, y: Memory) -> Callable[[int], None]:
        """A function that runs the model so many times from ``x`` into ``y``, and returns when all is done."""
        binding = self._session.io_binding()
        (first,), (last,) = self._session.get_inputs(), self._session.get_outputs()
        binding.bind_input(first.name, self.device, 0, x.onnx_type, list(x.shape), x.address)
        binding.bind_output(last.name, self.device, 0, y.onnx_type, list(y.shape), y.address)
        run, kept = self._session.run_with_iobinding, (x, y)

        def repeat(count: int) -> None:
            assert kept
            for _ in range(count):
                run(binding)  # waits for the GPU. No RunOptions: they alone cost 40 us for each run

        return repeat


def described(nodes: list[tuple[str, str]]) -> str:
    """E.g. "CPUExecutionProvider: OrthogonalPade", or the number of nodes where there are many."""
    parts = []
    for provider in dict.fromkeys(p for p, _ in nodes):
        operators = Counter(op for p, op in nodes if p == provider)
        few = ", ".join(op if count == 1 else f"{count} {op}" for op, count in operators.items())
        parts.append(f"{provider}: {few if operators.total() <= 4 else f'{operators.total()} nodes'}")
    return "; ".join(parts)


@cache
def has_cuda() -> bool:
    """True where onnxruntime can create a session on a GPU."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return False
    from opau_onnx.bench import nodes

    try:
        Session(nodes.standard("Identity", "float32"), "cuda")
    except BenchError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
