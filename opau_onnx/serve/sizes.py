"""Runs at other sizes of the axes that a file declares dynamic: a size that it declares and cannot run is told at load.

A traced file may hold for some sizes only. That is no reason not to serve it, since clients may send those only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from opau_onnx.protocol.tensors import Array, TensorSpec
from opau_onnx.serve.batches import Runner
from opau_onnx.serve.warmup import sample

SMALL = (1, 2, 3, 5)
RULES: tuple[Callable[[int], int], ...] = (lambda n: n - 1, lambda n: n + 1, lambda n: 2 * n, lambda n: n // 2)
LARGEST = 2**24
"""Elements of an input beyond which a size is not tried."""
SECONDS = 5.0
"""After which no further size is tried."""
Shapes = dict[str, tuple[int, ...]]
Axes = dict[str, dict[int, str]]
"""Input -> axis -> its name, or the input's and its number where it has none."""


@dataclass(frozen=True)
class Sizes:
    """Result of :func:`try_sizes`.

    Attributes:
        failed: sizes at which the model cannot be run, as text.
        tried: number of sizes.
        complete: False where there was no time for all.
    """

    failed: tuple[str, ...]
    tried: int
    complete: bool

    @property
    def warning(self) -> str:
        """What an operator should know; "" where there is nothing."""
        if not self.failed:
            return ""
        return f"the file declares these sizes and cannot run them: {'; '.join(self.failed)}"


def open_axes(session: Any) -> Axes:
    """The dynamic axes of a session's inputs, but for the first ones."""
    return {
        value.name: {
            a: str(size or f"{value.name}[{a}]") for a, size in enumerate(value.shape) if a and not isinstance(size, int)
        }
        for value in session.get_inputs()
    }


def try_sizes(
    runner: Runner,
    inputs: Sequence[TensorSpec],
    axes: Axes,
    row: Shapes,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Sizes:
    """Run the model at other sizes of each dynamic axis, and of all together.

    Args:
        runner: runs it.
        inputs: of the model.
        axes: those that are dynamic; axes of one name have one size.
        row: shapes of one row with which it runs.
        stop: once it is set, no further size is tried.
        clock: seconds.
    """
    own = {name: row[spec.name][axis] for spec in inputs for axis, name in axes.get(spec.name, {}).items()}
    failed, tried, begun = list[str](), 0, clock()
    for sizes in _choices(own):
        if clock() - begun > SECONDS or (stop is not None and stop.is_set()):
            return Sizes(tuple(failed), tried, complete=False)
        shapes = {spec.name: _sized(row[spec.name], axes.get(spec.name, {}), sizes) for spec in inputs}
        if max((int(np.prod(shape)) for shape in shapes.values()), default=0) > LARGEST:
            continue
        tried += 1
        if not runs(partial(runner.run, sample(inputs, shapes, None))):
            failed.append(", ".join(f"{name} {size}" for name, size in sizes.items()))
    return Sizes(tuple(failed), tried, complete=True)


def first_that_runs(runner: Runner, inputs: Sequence[TensorSpec], candidates: Sequence[Shapes]) -> Shapes | None:
    """The first shapes with which the model runs."""
    return next((shapes for shapes in candidates if runs(partial(runner.run, sample(inputs, shapes, None)))), None)


def runs(run: Callable[[], dict[str, Array]]) -> bool:
    """True where a run does not fail."""
    try:
        run()
    except Exception:  # onnxruntime's exceptions have no common base class
        return False
    return True


def _sized(shape: tuple[int, ...], names: Mapping[int, str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes.get(names.get(axis, ""), size) for axis, size in enumerate(shape))


def _choices(own: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Each axis alone, then all together; sizes that leave all as they are excluded."""
    for name, n in own.items():
        for size in sorted({*(rule(n) for rule in RULES), *SMALL} - {n}):
            if size > 0:
                yield {name: size}
    if len(own) > 1:
        for rule in RULES:
            sizes = {name: rule(n) for name, n in own.items()}
            if min(sizes.values()) > 0 and sizes != own:
                yield sizes
