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
from opau_onnx.serve.batches import Key, Outcome, Piece, Runner, Ticket, run_batch
from opau_onnx.serve.statistics import Statistics

BATCH_BYTES = 2**25
"""Inputs of a batch of several requests: beyond, copying them together costs memory, and gains nothing."""
MARGIN = 1.5
"""Estimated run times that a request needs before its deadline; with less it is late."""
PATIENCE = 4
"""Delays after which a worker that was to be free soon is no longer waited for."""


@dataclass(slots=True)
class Group:
    """Pieces that may run together, oldest first."""

    pieces: deque[Piece] = field(default_factory=deque)
    rows: int = 0


@dataclass(slots=True)
class Batch:
    """Pieces that are about to run together, and the earliest of their deadlines."""

    pieces: list[Piece] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    deadline: float = math.inf

    def add(self, piece: Piece) -> None:
        """One more."""
        self.pieces.append(piece)
        self.rows += piece.rows
        self.size += piece.size
        self.deadline = min(self.deadline, piece.ticket.deadline)


class Batcher:
    """Merges requests into batches and hands them to workers.

    Args:
        runners: one for each worker; workers on the CPU share one.
        max_batch_size: rows of a batch; 0: each request alone, whatever its shape.
        max_delay_us: how long the oldest piece waits for others while a worker is free.
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
        self._inboxes: list[SimpleQueue[Sequence[Piece] | None]] = [SimpleQueue() for _ in runners]
        self._free = list(range(len(runners)))
        self._open: set[Ticket] = set()
        self.waiting = 0
        self._closed = False
        self._started, self._typical_ns = 0, 0.0
        for number, runner in enumerate(runners):
            threading.Thread(target=self._work, args=(number, runner), daemon=True, name=f"opau-worker-{number}").start()

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return len(self._open)

    def submit(self, inputs: Mapping[str, Array], deadline: float) -> Ticket:
        """Queue a request whose inputs were checked.

        Args:
            inputs: all of them; with batching, the same number of rows in each.
            deadline: of the event loop's clock.

        Returns:
            The ticket; who awaits its future and is cancelled must call :meth:`drop`.

        Raises:
            QueueFullError: as many wait as may.
            UnavailableError: closed.
        """
        if self._closed:
            raise UnavailableError("the model was unloaded")
        if self.waiting >= self.max_queue:
            raise QueueFullError(f"{self.waiting} requests wait for this model already; try again later")
        ticket = self._ticket(inputs, deadline)
        ticket.timer = self._loop.call_at(deadline, self._expire, ticket)
        self._open.add(ticket)
        self._idle_event.clear()
        self.waiting += 1
        group = self._groups.setdefault(ticket.key, Group())
        for piece in ticket.pieces:
            group.pieces.append(piece)
            group.rows += piece.rows
        self._pump()
        return ticket

    def drop(self, ticket: Ticket, error: RequestError | None = None) -> None:
        """A request is no longer wanted: what waits of it leaves the queue, what runs is thrown away."""
        if ticket not in self._open:
            return
        if ticket.waiting:
            group = self._groups[ticket.key]
            waits = [piece for piece in group.pieces if piece.ticket is ticket]
            group.pieces = deque(piece for piece in group.pieces if piece.ticket is not ticket)
            group.rows -= sum(piece.rows for piece in waits)
            ticket.waiting = 0
            self.waiting -= 1
            if not group.pieces:
                del self._groups[ticket.key]
        self._end(ticket)
        if not ticket.future.done():
            if error is None:
                ticket.future.cancel()
            else:
                ticket.future.set_exception(error)

    async def drain(self) -> None:
        """Wait until every request has ended."""
        await self._idle_event.wait()

    def close(self) -> None:
        """Refuse new requests and end the workers once they are idle; call after :meth:`drain`."""
        self._closed = True
        for ticket in list(self._open):
            self.drop(ticket, UnavailableError("the model was unloaded"))
        for inbox in self._inboxes:
            inbox.put(None)

    def _ticket(self, inputs: Mapping[str, Array], deadline: float) -> Ticket:
        now = time.perf_counter_ns()
        key = tuple(array.shape[1:] for array in inputs.values()) if self.max_batch_size else ()
        ticket = Ticket(self._loop.create_future(), key, deadline)
        parts = list(_parts(inputs, self.max_batch_size))
        ticket.pieces = [Piece(ticket, i, part, rows, now) for i, (part, rows) in enumerate(parts)]
        ticket.results = [None] * len(parts)
        ticket.missing = ticket.waiting = ticket.batches = len(parts)
        ticket.rows, ticket.queued = sum(rows for _, rows in parts), now
        return ticket

    def _expire(self, ticket: Ticket) -> None:
        self.drop(ticket, DeadlineError("the answer was not there in time"))

    def _end(self, ticket: Ticket) -> None:
        self._open.discard(ticket)
        ticket.pieces = ()  # the inputs go with their batch, not with the next collection of garbage
        if ticket.timer is not None:
            ticket.timer.cancel()
        if not self._open:
            self._idle_event.set()

    def _pump(self) -> None:
        """Give free workers what is due; otherwise come back when the oldest piece is."""
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
        """The group that runs next: the one with the oldest piece of those that are full or have waited."""
        best, oldest = None, now - self._delay_ns
        for key, group in self._groups.items():
            queued = group.pieces[0].queued
            if queued <= oldest:
                best, oldest = key, queued
        if best is None:
            best = next((key for key, group in self._groups.items() if group.rows >= self.full_rows), None)
        return best

    def _come_back(self, now: int) -> None:
        oldest = min(group.pieces[0].queued for group in self._groups.values())
        self._wake(oldest + self._delay_ns - now)

    def _wake(self, after_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0, after_ns) / 1e9, self._pump)

    def _take(self, key: Key) -> list[Piece]:
        """The next batch: the oldest pieces that end in time, as many as are worth while and still all end in time.

        Those that are too late give way, and run where nothing else waits.
        """
        group, now = self._groups[key], self._loop.time()
        late: list[Piece] = []
        batch = Batch()
        while group.pieces:
            piece = group.pieces[0]
            if now + MARGIN * self._profile.estimate(piece.rows) > piece.ticket.deadline:
                late.append(group.pieces.popleft())
            elif not batch.pieces or self._fits(batch, piece, now):
                batch.add(group.pieces.popleft())
            else:
                break
        if not batch.pieces:
            batch.add(late.pop(0))
        group.pieces.extendleft(reversed(late))
        for piece in batch.pieces:
            piece.ticket.waiting -= 1
            if not piece.ticket.waiting:
                self.waiting -= 1
        group.rows -= batch.rows
        if not group.pieces:
            del self._groups[key]
        return batch.pieces

    def _fits(self, batch: Batch, piece: Piece, now: float) -> bool:
        """True where a batch should grow by a piece."""
        rows, size = batch.rows + piece.rows, batch.size + piece.size
        if rows > self.full_rows or size > BATCH_BYTES:
            return False
        return now + self._profile.estimate(rows) <= min(batch.deadline, piece.ticket.deadline)

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
        self._pump()  # the worker first, the answers then
        self.statistics.batch(outcome.rows, outcome.times)
        for piece, result in zip(outcome.pieces, outcome.results, strict=True):
            self._deliver(piece, result, outcome)

    def _deliver(self, piece: Piece, result: dict[str, Array] | RequestError, outcome: Outcome) -> None:
        ticket = piece.ticket
        if ticket not in self._open:  # dropped meanwhile
            return
        self.statistics.piece(piece.queued, outcome.times)
        if isinstance(result, RequestError):
            self.drop(ticket, result)
            return
        ticket.results[piece.index] = result
        ticket.times, ticket.batch_rows = outcome.times, outcome.rows
        ticket.missing -= 1
        if not ticket.missing:
            self._end(ticket)
            if not ticket.future.done():
                ticket.future.set_result(_joined(ticket.results))


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
