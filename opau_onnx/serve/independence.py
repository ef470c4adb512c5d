"""Before rows of different clients share a batch: does a row's result depend on the other rows?

The graph is asked first (:mod:`opau_onnx.graph.rows`), then runs of the model: rows together against each row alone. Zeros show
nothing, so inputs vary, whole numbers and bools too. Where no run can tell, the answer is that requests must run alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from opau_onnx.protocol.tensors import Array, TensorSpec
from opau_onnx.serve.batches import Runner
from opau_onnx.serve.sessions import Opened

logger = logging.getLogger("opau_onnx.serve")
TOLERANCES = {"FP64": 1e-9, "FP32": 1e-3, "FP16": 2e-2, "BF16": 5e-2}
"""Of a row alone against the same row among others, relative to the largest output: far above rounding, far below what a scale
that was computed over the whole batch does."""
ROWS = 3
PROBES = ((1.0, 1000), (10.0, 10), (0.1, 2))
"""(Scale of normal numbers, bound of whole numbers) of each probe: what one saturates or ignores, another does not."""
BOUNDS = (1000, 256, 100, 10, 4, 2, 1)
"""Whole numbers are below the first of these with which the model runs: they may be indices into a table."""
OPEN_SIZES = (8, 64, 224)
"""Sizes tried for open axes where none was given."""
DRAWS = 20
Shapes = dict[str, tuple[int, ...]]


def dependence(runner: Runner | None, opened: Opened, row: Shapes | None, limit: int) -> str | None:
    """Why the model must not be batched; None where every probe showed rows that do not depend on each other.

    Args:
        runner: runs the model; may be None where its graph already shows a dependence.
        opened: its tensors, and what its graph says.
        row: shapes of one row, the batch axis first; None: axes are open, and some sizes are tried.
        limit: rows of the largest batch; with 1 only the graph is asked, since no two rows ever meet.
    """
    if opened.over_rows is not None:
        return opened.over_rows
    if limit < 2:
        return None
    assert runner is not None
    tried: Sequence[Shapes] = [row] if row is not None else [sized(opened.inputs, size) for size in OPEN_SIZES]
    for shapes in tried:
        if (bounds := _bounds(runner, opened.inputs, shapes)) is not None:
            return _probed(runner, opened, shapes, bounds, min(ROWS, limit))
    if row is not None:
        return f"the model fails on every input that was tried (shapes of one row: {row})"
    return f"axes other than the first are open and the model does not run with them at {OPEN_SIZES}; give input_shapes"


def sized(inputs: Sequence[TensorSpec], size: int) -> Shapes:
    """Shapes of one row whose open axes have this size."""
    return {spec.name: (1, *(size if axis < 0 else axis for axis in spec.shape[1:])) for spec in inputs}


def _bounds(runner: Runner, inputs: Sequence[TensorSpec], row: Shapes) -> dict[str, int] | None:
    """For each input of whole numbers the largest bound with which the model runs; None where it does not even with zeros."""
    whole = [spec for spec in inputs if spec.dtype.kind in "iu"]
    found = {spec.name: 1 for spec in whole}
    if not _runs(runner, _sample(inputs, row, 1, found, 1.0, 0)):
        return None
    for spec in whole:
        largest = int(np.iinfo(spec.dtype).max) + 1
        for bound in (bound for bound in BOUNDS if bound <= largest):
            trial = {**found, spec.name: bound}
            if _runs(runner, _sample(inputs, row, ROWS, trial, 1.0, 0, top=spec.name)):
                found = trial
                break
    return found


def _runs(runner: Runner, inputs: dict[str, Array]) -> bool:
    try:
        runner.run(inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        logger.debug("a probe failed: %s", error)
        return False
    return True


def _sample(
    inputs: Sequence[TensorSpec], row: Shapes, rows: int, bounds: dict[str, int], scale: float, seed: int, top: str = ""
) -> dict[str, Array]:
    """Varied inputs; those of the input ``top`` hold the largest whole number that its bound allows."""
    generator = np.random.default_rng(seed)
    found = {}
    for spec in inputs:
        shape = (rows, *row[spec.name][1:])
        for _ in range(DRAWS):
            array = _drawn(spec, shape, bounds.get(spec.name, 2), scale, generator)
            if (array != array[:1]).any():  # a bool a row is often the same in all rows
                break
        if spec.name == top:
            array.reshape(-1)[:1] = bounds[top] - 1
        found[spec.name] = array
    return found


def _drawn(spec: TensorSpec, shape: tuple[int, ...], bound: int, scale: float, generator: np.random.Generator) -> Array:
    if spec.datatype in TOLERANCES:
        return (scale * generator.standard_normal(shape)).astype(spec.dtype)
    return generator.integers(0, bound, shape).astype(spec.dtype)


def _probed(runner: Runner, opened: Opened, row: Shapes, bounds: dict[str, int], rows: int) -> str | None:
    """The verdict of several probes."""
    varied = False
    for seed, (scale, cap) in enumerate(PROBES):
        capped = {name: min(bound, cap) for name, bound in bounds.items()}
        whole = _sample(opened.inputs, row, rows, capped, scale, seed)
        try:
            together = runner.run(whole)
            alone = [runner.run({name: array[i : i + 1] for name, array in whole.items()}) for i in range(rows)]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            logger.debug("a probe failed: %s", error)
            continue
        for spec in opened.outputs:
            for i in range(rows):
                if reason := _different(spec, together[spec.name], alone[i][spec.name], i, rows):
                    return reason
            varied = varied or _varies(together[spec.name])
    return None if varied else "no probe can tell whether rows depend on each other: all rows that were tried have one result"


def _varies(array: Array) -> bool:
    """True where rows differ and are numbers."""
    wide = array.astype(np.float64)
    return bool(((wide != wide[:1]) & ~np.isnan(wide) & ~np.isnan(wide[:1])).any())


def _different(spec: TensorSpec, together: Array, alone: Array, i: int, rows: int) -> str | None:
    if not (together.ndim and alone.ndim) or len(together) != rows or len(alone) != 1:
        return f"output {spec.name!r} has shape {list(together.shape)} for {rows} rows of input"
    wide = np.float64 if spec.datatype in TOLERANCES else spec.dtype
    a, b = together[i].astype(wide), alone[0].astype(wide)
    if a.shape != b.shape:
        return f"output {spec.name!r} of a row has another shape among other rows"
    finite = together.astype(np.float64)
    bound = TOLERANCES.get(spec.datatype, 0.0) * float(np.max(np.abs(finite[np.isfinite(finite)]), initial=0.0))
    if not np.allclose(a, b, rtol=0.0, atol=bound, equal_nan=True):
        return f"output {spec.name!r} of a row depends on the other rows of its batch"
    return None
