"""Whole models: the shipped LeNet with HP-1, through the library and as a function body, against the one with ReLU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from opau_onnx.bench import figures, machine
from opau_onnx.bench.names import NETWORKS
from opau_onnx.bench.sessions import Memory, Session, described
from opau_onnx.bench.timing import Plan, Subject, measure
from opau_onnx.core.spec import OP_TYPE
from opau_onnx.errors import BenchError
from opau_onnx.io import datasets

FLOAT = 1
"""TensorProto.FLOAT."""


def checkpoints() -> dict[str, Path]:
    """The two shipped checkpoints.

    Raises:
        BenchError: they are not installed.
    """
    import opau_onnx.models

    folder = Path(str(opau_onnx.models.__file__)).parent
    found = {key: folder / f"lenet_{key}_fashion_mnist.pt" for key in ("hp1", "relu")}
    for path in found.values():
        if not path.exists():
            raise BenchError(f"{path.name} is not in {folder}: the checkpoints are in the source tree, not in the wheel")
    return found


def run(
    batches: list[int], device: str, plan: Plan, progress: Callable[[str], None]
) -> tuple[list[figures.Case], list[dict[str, str]]]:
    """A case for each batch size, and what could not be measured."""
    try:
        files = checkpoints()
    except BenchError as error:
        return [], [{"subject": key, "dtype": "float32", "reason": str(error)} for key in NETWORKS]
    with tempfile.TemporaryDirectory(prefix="opau_bench_") as folder:
        progress("exporting the LeNets")
        models = {key: _export(path, Path(folder) / f"{key}.onnx") for key, path in files.items()}
        sessions, missing = _sessions(models, device)
    images = torch.from_numpy(datasets.preprocess(datasets.load_sample()[0]))
    cases = []
    for batch in batches:
        progress(f"LeNet, batch {batch}")
        x = images[torch.arange(batch) % len(images)].contiguous().to(device)
        cases.append(_case(sessions, x, plan))
    return cases, missing


def _export(checkpoint: Path, output: Path) -> str:
    from opau_onnx.export.api import export_model
    from opau_onnx.io.quiet import quiet

    with quiet():
        return str(export_model(checkpoint, output, validate=False).path)


def _sessions(models: dict[str, str], device: str) -> tuple[dict[str, Session], list[dict[str, str]]]:
    found: dict[str, Session] = {}
    missing: list[dict[str, str]] = []
    for key in NETWORKS:
        library, reason = machine.library() if key == "kernel" else (None, None)
        try:
            if reason:
                raise BenchError(reason)
            session = Session(models["relu" if key == "relu" else "hp1"], device, library, optimize=True)
            if (key == "kernel") != any(op == OP_TYPE for _, op in session.nodes()):
                raise BenchError(f"onnxruntime took the wrong implementation: {described(session.nodes())}")
            found[key] = session
        except BenchError as error:
            missing.append({"subject": key, "dtype": "float32", "reason": f"LeNet: {error}"})
    return found, missing


def _case(sessions: dict[str, Session], x: torch.Tensor, plan: Plan) -> figures.Case:
    y = torch.zeros(len(x), 10, device=x.device)
    one, two = (Memory(t.data_ptr(), tuple(t.shape), FLOAT, t) for t in (x, y))
    subjects = [
        Subject(key, NETWORKS[key], described(session.nodes()), "onnxruntime", session.prepare(one, two))
        for key, session in sessions.items()
    ]
    results: dict[str, Any] = {}
    for subject, times in zip(subjects, measure(subjects, plan).values(), strict=True):
        results[subject.key] = {**figures.summary(times), "implementation": subject.implementation}
    return {"batch": len(x), "results": results, "ratios": figures.ratios(results)}
