"""Before and after: operators, nodes, parameters, size, operations for each element, time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnx.inliner
import torch

from opau_onnx.compare.arrays import ort_value
from opau_onnx.core.reports import Reported
from opau_onnx.graph.coverage import read
from opau_onnx.runtime.session import create_session, quiet_options

ROUNDS, SECONDS = 15, 2.0
"""Turns of each subject, and after how many seconds no further one begins."""


@dataclass(frozen=True)
class Side(Reported):
    """One file.

    Attributes:
        nodes: operators that run where no library of ours is registered: the function bodies are counted, not their calls,
            and no constants.
        operators: those of them, by name.
        parameters: numbers stored in the file.
        file_bytes: of the .onnx file, and of its external data.
        microseconds: of one run, by implementation; empty where onnxruntime cannot run the file.
    """

    nodes: int
    operators: dict[str, int]
    parameters: int
    file_bytes: int
    microseconds: dict[str, float]


def summarize(
    before: Path, after: Path, inputs: Sequence[torch.Tensor], *, library: bool = True, between: Sequence[Path] = ()
) -> list[Side]:
    """All files in order; all implementations take turns, with one uncounted turn each.

    Args:
        before, after: the files.
        between: files that stand between them: the quantized model.
        inputs: to run them on.
        library: time all but the last with our kernels too, where they can be had.
    """
    sessions: dict[tuple[int, str], Any] = {}
    paths = [before, *between, after]
    for i, path in enumerate(paths):
        label = "function bodies" if read(path).nodes else "onnxruntime's own operators"
        sessions[i, label] = _session(path, False)
        if library and path != after and read(path).nodes:
            sessions[i, "compiled kernels"] = _session(path, True)
    times = _times({key: session for key, session in sessions.items() if session is not None}, inputs)
    return [_side(path, {name: t for (j, name), t in times.items() if j == i}) for i, path in enumerate(paths)]


def _session(path: Path, library: bool) -> Any:
    try:
        return create_session(path, "cpu", library=library, session_options=quiet_options())
    except Exception:  # no library here, or a dtype that onnxruntime's CPU cannot run: then there is no time
        return None


def _times(sessions: dict[tuple[int, str], Any], inputs: Sequence[torch.Tensor]) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], list[float]] = {key: [] for key in sessions}
    begin = time.perf_counter()
    for turn in range(ROUNDS + 1):
        for key, session in sessions.items():
            feed = {v.name: ort_value(x) for v, x in zip(session.get_inputs(), inputs, strict=True)}
            start = time.perf_counter()
            session.run_with_ort_values(None, feed)
            if turn:
                found[key].append((time.perf_counter() - start) * 1e6)
        if turn and time.perf_counter() - begin > SECONDS:
            break
    return {key: median(values) for key, values in found.items()}


def _side(path: Path, times: dict[str, float]) -> Side:
    model = onnx.load(path)
    data = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
    parameters = sum(_elements(t) for t in model.graph.initializer)
    operators = Counter(node.op_type for node in onnx.inliner.inline_local_functions(model).graph.node)
    del operators["Constant"]
    size = sum(p.stat().st_size for p in (path, *(path.parent / name for name in data)))
    return Side(sum(operators.values()), dict(sorted(operators.items())), parameters, size, times)


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for n in tensor.dims:
        count *= n
    return count
