"""A session on the CPU that remembers what was bound to it and what its runs were given."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from opau_onnx import create_session
from opau_onnx.protocol.tensors import Array


@dataclass
class Run:
    """Of a session: its graph, its thread, what was bound, and what was in the device's memory of the float32 input x."""

    graph: str | None
    thread: int
    places: dict[str, Any]
    x: Array | None


class Binding:
    """onnxruntime's, which remembers what it was bound to."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.places: dict[str, Any] = {}

    def bind_input(self, name: str, *place: Any) -> None:
        self.places[name] = place
        self.real.bind_input(name, *place)

    def bind_output(self, name: str, *place: Any) -> None:
        self.places[name] = place
        self.real.bind_output(name, *place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Watched:
    """A session that remembers its bindings and its runs."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.bindings: list[Binding] = []
        self.runs: list[Run] = []

    def io_binding(self) -> Binding:
        self.bindings.append(Binding(self.real.io_binding()))
        return self.bindings[-1]

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        try:
            graph = None if options is None else options.get_run_config_entry("gpu_graph_id")
        except RuntimeError:  # options of a run without a graph
            graph = None
        x = None
        if "x" in binding.places:
            *_, shape, address = binding.places["x"]
            x = np.frombuffer(ctypes.string_at(address, int(np.prod(shape)) * 4), np.float32).reshape(shape)
        self.runs.append(Run(graph, threading.get_ident(), dict(binding.places), x))
        self.real.run_with_iobinding(binding.real, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def watch(path: Path) -> Watched:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # some runs fail on purpose
    return Watched(create_session(path, "cpu", session_options=options))
