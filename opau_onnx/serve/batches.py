"""Chunks of requests, and how several become one run and several responses again. Runs in the workers' threads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from opau_onnx.protocol.errors import RequestError, RunError
from opau_onnx.protocol.tensors import Array
from opau_onnx.serve.statistics import Times

logger = logging.getLogger("opau_onnx.serve")
Key = tuple[Any, ...]


class Runner(Protocol):
    """Something that runs a model; called by one thread at a time unless it says otherwise."""

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The outputs, which nothing else writes to; raises whatever onnxruntime does."""
        ...


@dataclass(slots=True, eq=False)
class Chunk:
    """Rows that stay together in one run: a request, or part of one with more rows than a run may have.

    Attributes:
        pending: the request it belongs to.
        index: which part of it.
        inputs: arrays with ``rows`` rows.
        rows: size of the batch axis.
        queued: when it came, in nanoseconds.
    """

    pending: PendingRequest
    index: int
    inputs: dict[str, Array]
    rows: int
    queued: int

    @property
    def size(self) -> int:
        """Bytes of the inputs."""
        return sum(array.nbytes for array in self.inputs.values())


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request in the queue.

    Attributes:
        deadline: of the event loop's clock.
        future: its outputs, or the error it ended with.
        chunks: its parts, until it has ended; they refer to it, and hold its inputs.
        rows, batches: of the whole request, and how many parts it has.
        queued: when it came, in nanoseconds.
        results: outputs of the chunks that are done.
        missing: chunks that are not.
        times, batch_rows: of the last batch that one of its chunks was in.
    """

    future: asyncio.Future[dict[str, Array]]
    key: Key
    deadline: float
    chunks: Sequence[Chunk] = ()
    rows: int = 0
    batches: int = 0
    queued: int = 0
    results: list[dict[str, Array] | None] = field(default_factory=list)
    missing: int = 0
    waiting: int = 0
    timer: asyncio.TimerHandle | None = None
    times: Times | None = None
    batch_rows: int = 0


@dataclass(slots=True)
class Outcome:
    """Result of one batch.

    Attributes:
        chunks: of the batch.
        results: for each chunk its outputs or its error.
        rows: of the whole batch.
        times: of the run.
        whole: False where the batch failed as a whole and its chunks ran alone.
    """

    chunks: Sequence[Chunk]
    results: list[dict[str, Array] | RequestError]
    rows: int
    times: Times
    whole: bool = True


def run_batch(runner: Runner, chunks: Sequence[Chunk]) -> Outcome:
    """Run chunks together. One that makes the run fail is found by running each alone, and fails alone."""
    rows = sum(chunk.rows for chunk in chunks)
    start = time.perf_counter_ns()
    merged = ran = start
    results: list[dict[str, Array] | RequestError]
    whole = False
    try:
        inputs = merge(chunks)
        merged = time.perf_counter_ns()
        outputs = runner.run(inputs)
        ran = time.perf_counter_ns()
        results = [*split(outputs, [chunk.rows for chunk in chunks])]
        whole = True
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if len(chunks) == 1:
            place = str(error).partition("Status Message")[0].strip()  # what follows may quote the request's numbers
            logger.warning("onnxruntime failed on a request", extra={"fields": {"rows": rows, "error": place}})
            results = [RunError(f"the model could not be run on this input: {error}")]
        else:
            results = [run_batch(runner, [chunk]).results[0] for chunk in chunks]
        ran = max(ran, merged)
    return Outcome(chunks, results, rows, Times(start, merged, ran, time.perf_counter_ns()), whole)


def merge(chunks: Sequence[Chunk]) -> dict[str, Array]:
    """One array for each input, the chunks' rows one below the other."""
    first = chunks[0].inputs
    if len(chunks) == 1:
        return {name: usable(array) for name, array in first.items()}
    return {name: np.concatenate([chunk.inputs[name] for chunk in chunks]) for name in first}


def usable(array: Array) -> Array:
    """An array that onnxruntime can read in place: a client's bytes may begin at any address."""
    return np.require(array, requirements=["C", "A"])


def split(outputs: dict[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """The chunks' outputs; views into the whole.

    Raises:
        ValueError: an output has another number of rows than went in.
    """
    if len(rows) == 1:
        return [outputs]
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != total:
            raise ValueError(f"output {name!r} has shape {list(array.shape)} for {total} rows")
    ends = np.cumsum(rows).tolist()
    return [{name: array[end - count : end] for name, array in outputs.items()} for count, end in zip(rows, ends, strict=True)]
