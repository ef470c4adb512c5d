"""Restrictions while a CUDA graph is captured, and checks that a session can be captured.

onnxruntime captures in CUDA's mode "global": until the capture ends, a call in any thread of the process that allocates device
memory or waits for the whole device fails, and makes the capture fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opau_onnx.errors import LoadError
from opau_onnx.protocol.tensors import TensorSpec
from opau_onnx.runtime.session import CPU, CUDA

HOST = ("Cpu", "CudaPinned")
"""onnxruntime's names of host memory."""
REFUSED = "cannot use the graph capture feature"
"""In onnxruntime's error where it makes no session with CUDA graphs."""


class CaptureLock:
    """Keeps captures apart from everything else that a server does on GPUs: runs, new sessions, other captures."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._state = threading.Condition()
        self._running = 0
        self._capturing = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a run, or anything else that takes no longer; waits for a capture, not for other runs."""
        with self._state:
            self._state.wait_for(lambda: not self._capturing)
            self._running += 1
        try:
            yield
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Around a capture; waits until nothing else runs, and nothing else begins until it ends."""
        with self._changing:
            with self._state:
                self._capturing = True
                self._state.wait_for(lambda: not self._running)
            try:
                yield
            finally:
                with self._state:
                    self._capturing = False
                    self._state.notify_all()

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Around the making of a session, which may take long; runs go on meanwhile, captures wait."""
        with self._changing:
            yield


CAPTURE_LOCK = CaptureLock()
"""The process's."""


def check_shapes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], buckets: Sequence[int]) -> None:
    """Check that every size is known, as a CUDA graph needs it: with buckets, all but the first axis, else all.

    Raises:
        LoadError: it is not.
    """
    for spec in (*inputs, *outputs):
        if -1 in spec.shape[1:]:
            raise LoadError(
                f"cuda_graph needs fixed shapes, but {spec} has open axes besides the first; export the model with them fixed, "
                "or leave cuda_graph out"
            )
        if buckets and spec.shape[:1] != (-1,):
            raise LoadError(f"cuda_graph with batches needs an open first axis, but {spec} has none; leave cuda_graph out")
        if not buckets and spec.shape[:1] == (-1,):
            raise LoadError(
                f"cuda_graph needs fixed shapes, but the first axis of {spec} is open and requests are not batched; "
                "set max_batch_size, or leave cuda_graph out"
            )


def check_session(session: Any) -> None:
    """Check that a session of the CUDA provider can be captured. onnxruntime has looked at its nodes already.

    Raises:
        LoadError: it was made without CUDA graphs, or reads an input or writes an output on the host, where a replay does not.
    """
    enabled = session.get_provider_options()[CUDA].get("enable_cuda_graph", "1")
    if str(enabled).lower() in ("0", "false"):
        raise LoadError("the session was made without CUDA graphs; its provider option enable_cuda_graph must be 1")
    tensors = (
        *zip(session.get_inputs(), session.get_input_memory_infos(), strict=True),
        *zip(session.get_outputs(), session.get_output_memory_infos(), strict=True),
    )
    for tensor, memory in tensors:
        if memory.name in HOST:
            raise LoadError(
                f"cuda_graph cannot serve this model: {tensor.name} stays in the host's memory, where a replayed graph neither "
                "reads nor writes; leave cuda_graph out"
            )


def nodes_off_gpu(session: Any) -> list[str]:
    """Nodes that onnxruntime did not put on the CUDA provider, from its record: "name (Operator, provider)"."""
    return [
        f"{node.name or '?'} ({node.op_type}, {part.ep_name})"
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if part.ep_name != CUDA
    ]


def explained(error: Exception, without_graphs: Callable[[], Any]) -> str:
    """onnxruntime's error, and where it refused CUDA graphs the nodes that are to blame, which it does not name.

    Args:
        error: what it raised when it made the session.
        without_graphs: makes a session as that one, without CUDA graphs.
    """
    if REFUSED not in str(error):
        return str(error)
    try:
        nodes = nodes_off_gpu(without_graphs())
    except Exception as other:  # onnxruntime's exceptions have no common base class
        return f"{error} (which nodes could not be found out: {other})"
    named = f"; not on {CUDA}: {', '.join(nodes)}; only nodes that compute shapes may be on {CPU}" if nodes else ""
    return f"{error}{named}; leave cuda_graph out, or change the model"
