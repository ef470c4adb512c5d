"""The queue of one loaded model: requests wait for each other, run together, and are answered one by one.

All of it but the workers' runs happens in the event loop's thread, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from opau_onnx.protocol.errors import DeadlineError, QueueFullError, RequestError, UnavailableError
from opau_onnx.protocol.tensors import Array
from opau_onnx.serve.batch_profile import BatchProfile
from opau_onnx.serve.batches import Chunk, Key, Outcome, PendingRequest, Runner, run_batch
from opau_onnx.serve.statistics import Statistics

BATCH_BYTES = 2**25
"""Inputs of a batch of several requests: beyond, copying them together costs memory, and gains nothing."""
MARGIN = 1.5
"""Estimated run times that a request needs before its deadline; with less it is late."""
PATIENCE = 4
"""Delays after which a worker that was to be free soon is no longer waited for."""


@dataclass(slots=True)
class Group:
    """Chunks that may run together, oldest first."""

    chunks: deque[Chunk] = field(default_factory=deque)
    rows: int = 0


@dataclass(slots=True)
class Batch:
    """Chunks that are about to run together, and the earliest of their deadlines."""

    chunks: list[Chunk] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    deadline: float = math.inf

    def add(self, chunk: Chunk) -> None:
        """One more."""
        self.chunks.append(chunk)
        self.rows += chunk.rows
        self.size += chunk.size
        self.deadline = min(self.deadline, chunk.pending.deadline)


class Batcher:
    """Merges requests into batches and hands them to workers.

    Args:
        runners: one for each worker; workers on the CPU share one.
        max_batch_size: rows of a batch; 0: each request alone, whatever its shape.
        max_delay_us: how long the oldest chunk waits for others while a worker is free.
        max_queue: requests that may wait.
        statistics: where it is counted.
        loop: the event loop, in whose thread all methods are called.
        profile: what batches cost; None: nothing is known yet.

    Attributes:
        full_rows: at which a batch grows no further.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        *,
        max_batch_size: int,
        max_delay_us: int,
        max_queue: int,
        statistics: Statistics,
        loop: asyncio.AbstractEventLoop,
        profile: BatchProfile | None = None,
    ) -> None:
        self.max_batch_size, self.max_queue = max_batch_size, max_queue
        self.statistics, self._loop = statistics, loop
        self._profile = profile or BatchProfile()
        self.full_rows = self._profile.best_rows(max_batch_size)
        self._delay_ns = max_delay_us * 1000
        self._groups: dict[Key, Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle_event = asyncio.Event()
        self._idle_event.set()
        self._inboxes: list[SimpleQueue[Sequence[Chunk] | None]] = [SimpleQueue() for _ in runners]
        self._free = list(range(len(runners)))
        self._open: set[PendingRequest] = set()
        self.waiting = 0
        self._closed = False
        self._started, self._typical_ns = 0, 0.0
        for number, runner in enumerate(runners):
            threading.Thread(target=self._work, args=(number, runner), daemon=True, name=f"opau-worker-{number}").start()

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return len(self._open)

    def submit(self, inputs: Mapping[str, Array], deadline: float) -> PendingRequest:
        """Queue a request whose inputs were checked.

        Args:
            inputs: all of them; with batching, the same number of rows in each.
            deadline: of the event loop's clock.

        Returns:
            The pending request; who awaits its future and is cancelled must call :meth:`drop`.

        Raises:
            QueueFullError: as many wait as may.
            UnavailableError: closed.
        """
        if self._closed:
            raise UnavailableError("the model was unloaded")
        if self.waiting >= self.max_queue:
            raise QueueFullError(f"queue full: {self.waiting} requests are waiting for this model (max_queue); try again later")
        pending = self._pending(inputs, deadline)
        pending.timer = self._loop.call_at(deadline, self._expire, pending)
        self._open.add(pending)
        self._idle_event.clear()
        self.waiting += 1
        group = self._groups.setdefault(pending.key, Group())
        for chunk in pending.chunks:
            group.chunks.append(chunk)
            group.rows += chunk.rows
        self._pump()
        return pending

    def drop(self, pending: PendingRequest, error: RequestError | None = None) -> None:
        """A request is no longer wanted: what waits of it leaves the queue, what runs is thrown away."""
        if pending not in self._open:
            return
        if pending.waiting:
            group = self._groups[pending.key]
            waits = [chunk for chunk in group.chunks if chunk.pending is pending]
            group.chunks = deque(chunk for chunk in group.chunks if chunk.pending is not pending)
            group.rows -= sum(chunk.rows for chunk in waits)
            pending.waiting = 0
            self.waiting -= 1
            if not group.chunks:
                del self._groups[pending.key]
        self._end(pending)
        if not pending.future.done():
            if error is None:
                pending.future.cancel()
            else:
                pending.future.set_exception(error)

    async def drain(self) -> None:
        """Wait until every request has ended."""
        await self._idle_event.wait()

    def close(self) -> None:
        """Refuse new requests and end the workers once they are idle; call after :meth:`drain`."""
        self._closed = True
        for pending in list(self._open):
            self.drop(pending, UnavailableError("the model was unloaded"))
        for inbox in self._inboxes:
            inbox.put(None)

    def _pending(self, inputs: Mapping[str, Array], deadline: float) -> PendingRequest:
        now = time.perf_counter_ns()
        key = tuple(array.shape[1:] for array in inputs.values()) if self.max_batch_size else ()
        pending = PendingRequest(self._loop.create_future(), key, deadline)
        parts = list(_parts(inputs, self.max_batch_size))
        pending.chunks = [Chunk(pending, i, part, rows, now) for i, (part, rows) in enumerate(parts)]
        pending.results = [None] * len(parts)
        pending.missing = pending.waiting = pending.batches = len(parts)
        pending.rows, pending.queued = sum(rows for _, rows in parts), now
        return pending

    def _expire(self, pending: PendingRequest) -> None:
        self.drop(pending, DeadlineError("deadline exceeded"))

    def _end(self, pending: PendingRequest) -> None:
        self._open.discard(pending)
        pending.chunks = ()  # the inputs go with their batch, not with the next collection of garbage
        if pending.timer is not None:
            pending.timer.cancel()
        if not self._open:
            self._idle_event.set()

    def _pump(self) -> None:
        """Give free workers what is due; otherwise come back when the oldest chunk is."""
        while self._free and self._groups:
            now = time.perf_counter_ns()
            key = self._due(now)
            if key is None:
                self._come_back(now)
                return
            if self._soon_free(now, key):
                self._wake(self._started + PATIENCE * self._delay_ns - now)
                return
            self._started = now
            self._inboxes[self._free.pop()].put(self._take(key))

    def _soon_free(self, now: int, key: Key) -> bool:
        """True where a worker is about to end, so that waiting for it makes one larger batch instead of two.

        Where runs are shorter than the delay, a second worker gains nothing: they fight for Python's lock with the event loop.
        """
        busy = len(self._inboxes) > len(self._free)
        quick = self._typical_ns < self._delay_ns and now - self._started < PATIENCE * self._delay_ns
        return busy and quick and self._groups[key].rows < self.full_rows

    def _due(self, now: int) -> Key | None:
        """The group that runs next: the one with the oldest chunk of those that are full or have waited."""
        best, oldest = None, now - self._delay_ns
        for key, group in self._groups.items():
            queued = group.chunks[0].queued
            if queued <= oldest:
                best, oldest = key, queued
        if best is None:
            best = next((key for key, group in self._groups.items() if group.rows >= self.full_rows), None)
        return best

    def _come_back(self, now: int) -> None:
        oldest = min(group.chunks[0].queued for group in self._groups.values())
        self._wake(oldest + self._delay_ns - now)

    def _wake(self, after_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0, after_ns) / 1e9, self._pump)

    def _take(self, key: Key) -> list[Chunk]:
        """The next batch: the oldest chunks that end in time, as many as are worth while and still all end in time.

        Those that are too late give way, and run where nothing else waits.
        """
        group, now = self._groups[key], self._loop.time()
        late: list[Chunk] = []
        batch = Batch()
        while group.chunks:
            chunk = group.chunks[0]
            if now + MARGIN * self._profile.estimate(chunk.rows) > chunk.pending.deadline:
                late.append(group.chunks.popleft())
            elif not batch.chunks or self._fits(batch, chunk, now):
                batch.add(group.chunks.popleft())
            else:
                break
        if not batch.chunks:
            batch.add(late.pop(0))
        group.chunks.extendleft(reversed(late))
        for chunk in batch.chunks:
            chunk.pending.waiting -= 1
            if not chunk.pending.waiting:
                self.waiting -= 1
        group.rows -= batch.rows
        if not group.chunks:
            del self._groups[key]
        return batch.chunks

    def _fits(self, batch: Batch, chunk: Chunk, now: float) -> bool:
        """True where a batch should grow by a chunk."""
        rows, size = batch.rows + chunk.rows, batch.size + chunk.size
        if rows > self.full_rows or size > BATCH_BYTES:
            return False
        return now + self._profile.estimate(rows) <= min(batch.deadline, chunk.pending.deadline)

    def _work(self, number: int, runner: Runner) -> None:
        """A worker's thread."""
        while (batch := self._inboxes[number].get()) is not None:
            try:
                self._loop.call_soon_threadsafe(self._finished, number, run_batch(runner, batch))
                del batch  # its inputs; the next one may be long in coming
            except RuntimeError:  # the loop has ended: nobody waits any more
                return

    def _finished(self, number: int, outcome: Outcome) -> None:
        self._free.append(number)
        self._typical_ns += (outcome.times.end - outcome.times.start - self._typical_ns) / 16
        if outcome.whole and outcome.rows:
            self._profile.observe(outcome.rows, (outcome.times.end - outcome.times.start) / 1e9)
        self._pump()  # the worker first, the responses then
        self.statistics.batch(outcome.rows, outcome.times)
        for chunk, result in zip(outcome.chunks, outcome.results, strict=True):
            self._deliver(chunk, result, outcome)

    def _deliver(self, chunk: Chunk, result: dict[str, Array] | RequestError, outcome: Outcome) -> None:
        pending = chunk.pending
        if pending not in self._open:  # dropped meanwhile
            return
        self.statistics.chunk(chunk.queued, outcome.times)
        if isinstance(result, RequestError):
            self.drop(pending, result)
            return
        pending.results[chunk.index] = result
        pending.times, pending.batch_rows = outcome.times, outcome.rows
        pending.missing -= 1
        if not pending.missing:
            self._end(pending)
            if not pending.future.done():
                pending.future.set_result(_joined(pending.results))


def _parts(inputs: Mapping[str, Array], limit: int) -> Iterable[tuple[dict[str, Array], int]]:
    """(inputs, rows) of runs that are not larger than allowed."""
    rows = next((len(array) for array in inputs.values() if array.ndim), 1)
    if not limit or rows <= limit:
        yield dict(inputs), rows
        return
    for start in range(0, rows, limit):
        part = {name: array[start : start + limit] for name, array in inputs.items()}
        yield part, min(limit, rows - start)


def _joined(results: Sequence[dict[str, Array] | None]) -> dict[str, Array]:
    whole = [result for result in results if result is not None]
    if len(whole) == 1:
        return whole[0]
    return {name: np.concatenate([part[name] for part in whole]) for name in whole[0]}
