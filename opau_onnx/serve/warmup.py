"""Before a model serves: how large its batches may be by its axes, and one run of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from opau_onnx.errors import LoadError
from opau_onnx.protocol.tensors import Array, TensorSpec
from opau_onnx.serve.batch_profile import timed
from opau_onnx.serve.batches import Runner
from opau_onnx.serve.config import DEFAULT_MAX_BATCH_SIZE, ModelSettings
from opau_onnx.serve.sessions import Opened

FLOATS = ("FP64", "FP32", "FP16", "BF16")


def batch_size(settings: ModelSettings, opened: Opened) -> tuple[int, str]:
    """(largest batch, 0 for none; why there is none).

    Raises:
        LoadError: a size was asked for and the model's axes don't allow it.
    """
    if settings.max_batch_size == 0:
        return 0, "max_batch_size is 0"
    reason = _fixed(opened)
    if reason is None:
        return settings.max_batch_size or DEFAULT_MAX_BATCH_SIZE, ""
    if settings.max_batch_size is not None:
        raise LoadError(
            f"max_batch_size is {settings.max_batch_size}, but {reason}; export {settings.path} with a dynamic batch, "
            "or set it to 0"
        )
    return 0, reason


def _fixed(opened: Opened) -> str | None:
    """Why requests cannot be put below each other, from the graph's axes."""
    for spec in (*opened.inputs, *opened.outputs):
        if opened.symbols[spec.name] is None:
            return f"the first axis of {spec.name} ({list(spec.shape)}) is fixed"
    names = {opened.symbols[spec.name] for spec in opened.inputs}
    if len(names) > 1:
        return f"the first axes of the inputs have different names: {', '.join(sorted(map(str, names)))}"
    return "the model has no inputs" if not opened.inputs else None


def buckets(settings: ModelSettings, largest: int) -> tuple[int, ...]:
    """Row counts to warm up: those that were asked for, else powers of 2, and always the largest.

    Raises:
        LoadError: one is larger than the largest batch.
    """
    if not largest:
        return ()
    asked = settings.buckets or tuple(2**i for i in range(largest.bit_length()))
    if max(asked) > largest:
        raise LoadError(f"buckets has {max(asked)}, which is more than max_batch_size, {largest}")
    return tuple(sorted({*asked, largest}))


def shapes(settings: ModelSettings, inputs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]] | None:
    """Shapes of one row, the batch axis first; None where an axis is open and no size was given.

    Raises:
        LoadError: input_shapes names an input that is not there, or does not fit.
    """
    known = {spec.name: spec for spec in inputs}
    for name, given in settings.input_shapes.items():
        if name not in known:
            raise LoadError(f"input_shapes has {name!r}; the model's inputs are {', '.join(known)}")
        if not known[name].fits(given):
            raise LoadError(f"input_shapes has {list(given)} for {known[name]}")
    found = {spec.name: settings.input_shapes.get(spec.name) or _one_row(spec.shape) for spec in inputs}
    return None if any(size < 0 for shape in found.values() for size in shape) else found


def _one_row(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape[1:]) if shape[:1] == (-1,) else shape


def sample(inputs: Sequence[TensorSpec], row: dict[str, tuple[int, ...]], rows: int | None) -> dict[str, Array]:
    """Inputs that any model takes: small normal numbers, zeros where they are integers (they may be indices)."""
    generator = np.random.default_rng(0)
    found = {}
    for spec in inputs:
        shape = row[spec.name] if rows is None else (rows, *row[spec.name][1:])
        if spec.datatype in FLOATS:
            found[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
        else:
            found[spec.name] = np.zeros(shape, spec.dtype)
    return found


def warm(
    runners: Iterable[Runner],
    inputs: Sequence[TensorSpec],
    row: dict[str, tuple[int, ...]],
    buckets: Sequence[int],
    stop: threading.Event | None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Run every bucket, or the shapes as they are without any, once by each runner; the first then measures it.

    Returns:
        Seconds of a run by its rows.

    Raises:
        LoadError: it was stopped.
    """
    seconds: dict[int, float] = {}
    for number, runner in enumerate(dict.fromkeys(runners)):
        for rows in buckets or (None,):
            if stop is not None and stop.is_set():
                raise LoadError("stopped before every batch size had been run")
            run = partial(runner.run, sample(inputs, row, rows))
            run()
            if rows is not None and not number:
                seconds[rows] = timed(run, clock)
    return seconds
