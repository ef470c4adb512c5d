"""How long the networks take in onnxruntime, the learned activations in our compiled kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from opau_onnx import create_session, export_model, models
from opau_onnx.bench.figures import summary
from opau_onnx.bench.timing import Plan, Subject, measure
from opau_onnx.errors import ExportError
from opau_onnx.nn import coefficient_parameters
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.session import Device
from training.comparison.work import Settings
from training.datasets import Data
from training.pixels import Pixels, shape_for

PLAN = Plan(rounds=15, sample_seconds=0.05, subject_seconds=6.0)
THREADS = 1
"""So that sessions in one process don't wait for each other's spinning threads."""


def measure_all(
    settings: Settings, activations: Sequence[str], source: Data, batch: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Times of one batch of test images with each activation; they take turns, so that whatever drifts hits all alike.

    The networks have fresh weights: what a session takes does not depend on them. Each file is compared with its model.

    Raises:
        LibraryError: the compiled kernels are not there.
        ExportError: a file differs from its model.
    """
    pixels = Pixels(source.kind, shape_for(settings.architecture, source.kind))
    images = pixels(source.test.images[torch.arange(batch) % len(source.test)]).numpy()
    with tempfile.TemporaryDirectory() as folder:
        subjects = []
        for name in activations:
            progress(f"exporting {settings.architecture} with {name}")
            subjects.append(_subject(settings, name, source, images, Path(folder)))
        progress("measuring inference")
        times = measure(subjects, PLAN)
    return {
        "batch": batch,
        "threads": THREADS,
        "results": {s.key: {**summary(times[s.key]), "implementation": s.implementation} for s in subjects},
    }


def _subject(settings: Settings, name: str, source: Data, images: npt.NDArray[np.float32], folder: Path) -> Subject:
    import onnxruntime

    job = settings.job(name, 0, source)
    torch.manual_seed(0)
    model = models.create(job.architecture, **job.arguments).eval()
    result = export_model(model, folder / f"{name}.onnx", torch.from_numpy(images[:2]))
    if not result.equal:
        raise ExportError(f"the exported {job.name} differs from its model; run opau-export on it for the report")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    device: Device = "cuda" if settings.recipe.device == "cuda" else "cpu"
    # Without the kernels a learned activation would run as a function, which is slow, and its time another one than is told.
    library: Literal[True, "auto"] = True if coefficient_parameters(model) else "auto"
    session = create_session(result.path, device, library=library, session_options=options)
    feed = {session.get_inputs()[0].name: images}
    who = "; ".join(map(str, assignments(session))) or "onnxruntime's own operators"

    def run(count: int) -> None:
        for _ in range(count):
            session.run(None, feed)

    return Subject(name, name, who, "onnxruntime", run)
