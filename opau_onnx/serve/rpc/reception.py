"""Requests that gRPC is receiving: their sizes are unknown until they are complete, so the memory of the process is watched.

gRPC reads a message of up to ``max_request_bytes`` for every call, whatever else it is reading. While there are few calls, each
is received in the cheapest way. Beyond that, a few are received at a time until it shows how large they are, in a way that can
be ended. While the process has grown by about ``max_pending_bytes``, some are ended: those that have stalled, then the
newest, since the others are nearer to their end.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio

from opau_onnx.protocol.errors import QueueFullError
from opau_onnx.serve.service import PENDING_FULL, Service

STEP_SECONDS = 0.01
"""Between two looks at the memory."""
YOUNG_STEPS = 3
"""Looks during which a request is not ended: small ones are complete by then, and the event loop has seen it."""
PACE_STEPS = 25
"""Looks during which a request may be large, so that only a few are read: what has come of it by then shows in the memory."""
PATIENCE_SECONDS = 0.5
"""For which a request waits while others are read that seem to be large."""
STALLED_STEPS = 500
"""Looks after which a request that is not complete counts as stalled, and is ended first."""
LITTLE, SHORT, ENDING = 1 / 16, 1 / 4, 3 / 4
"""Growth, in parts of the limit: requests wait a little, requests wait and memory is given back, some requests are ended, since
more is on its way while the event loop is busy."""
PORTION = 2
"""One of so many requests is ended at each look, and at least one."""
LARGE = 2**20
"""Bytes of a request after which the memory is watched: what gRPC frees of it is scattered, and stays with the process."""
TRIM_SECONDS = 0.1
"""Between giving back memory twice, at least: it takes milliseconds."""
TRIM_BYTES, USELESS_TRIM_SECONDS = 2**25, 1.0
"""Where less was given back, the next time is so much later."""
BASE_SECONDS = 5.0
"""Between two looks at the memory of the server at rest."""


@dataclass(slots=True, eq=False)
class Reading:
    """A request that is being received, and can be ended."""

    future: asyncio.Future[Any]
    steps: int = 0


class Reception:
    """Decides how calls are received, and ends some where memory is short. It belongs to one event loop.

    Args:
        service: counts what has been received, and has the limits.
        resident: resident bytes of the process; None where the system does not tell, and then nothing is ended.
        trim: gives freed memory back to the system.
    """

    def __init__(
        self, service: Service, resident: Callable[[], int | None] | None = None, trim: Callable[[], None] | None = None
    ) -> None:
        server = service.settings.server
        self._service, self._limit, self._largest = service, server.max_pending_bytes, server.max_request_bytes
        self._resident, self._trim = resident or resident_bytes, trim or give_back
        self._room = max(1, self._limit // (2 * self._largest))
        self._unclaimed = 0
        self._plain: dict[asyncio.Task[Any], int] = {}
        self._readings: dict[Reading, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._base, self._based, self._trim_after = 0, float("-inf"), 0.0
        self._models: list[object] = []

    def plain(self) -> bool:
        """True where the call of the current task may be received in the cheap way, which cannot be ended."""
        if not self._begin() and len(self._plain) >= self._room:
            return False
        task = asyncio.current_task()
        assert task is not None
        self._plain[task] = 0
        task.add_done_callback(self._left)  # its client may leave before the request is complete
        return True

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._plain.pop(task, None)

    def received(self, size: int) -> None:
        """A request is complete; if it came in the cheap way, it is the current task's."""
        self._plain.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
        if size > LARGE:
            if self._timer is None:
                self._wait()
            self._give_back_if_grown()

    async def read(self, context: Any) -> Any:
        """The next request of a call, or gRPC's end of a stream.

        Raises:
            QueueFullError: memory is short.
        """
        self._begin()
        until = time.monotonic() + PATIENCE_SECONDS
        while self._short(until):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        reading = Reading(asyncio.get_running_loop().create_future())
        # Where the request is no longer wanted, this ends with the call: cancelled, it would leave what has come to nobody.
        task = asyncio.ensure_future(self._next(context))
        self._tasks.add(task)
        task.add_done_callback(partial(self._complete, reading))
        self._readings[reading] = None
        try:
            return await reading.future
        finally:
            del self._readings[reading]
            self._wake()

    async def _next(self, context: Any) -> Any:
        """The next request, which is let go at once where there is no room for it: many may be complete at the same time."""
        raw = await context.read()
        if raw is grpc.aio.EOF:
            return raw
        if self._service.pending_bytes + self._unclaimed + len(raw) > self._limit:
            del raw
            self._give_back_if_grown()
            raise QueueFullError(PENDING_FULL)
        self._unclaimed += len(raw)
        self.received(len(raw))
        return raw

    def _complete(self, reading: Reading, task: asyncio.Task[Any]) -> None:
        """The task that reads a request has ended."""
        self._tasks.discard(task)
        if task.cancelled():
            reading.future.cancel()
            return
        error = task.exception()
        if error is None and task.result() is not grpc.aio.EOF:
            self._unclaimed -= len(task.result())
        if reading.future.done():  # nobody waits for it any more
            return
        if error is None:
            reading.future.set_result(task.result())
        else:
            reading.future.set_exception(error)

    def _begin(self) -> bool:
        """A request begins to come in; True where it is the only one."""
        count = len(self._plain) + len(self._readings)
        if not count and not self._service.pending_bytes:
            if time.monotonic() - self._based > BASE_SECONDS:
                self._measure_base()
        elif self._timer is None and self._crowded(count + 1):
            self._wait()
        return not count

    def _measure_base(self) -> None:
        self._base, self._based = (self._resident() or 0) - self._service.pending_bytes, time.monotonic()
        self._models = self._served()

    def _served(self) -> list[object]:
        return [entry.served for entry in self._service.repository]

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(STEP_SECONDS, self._step)

    def _short(self, until: float) -> bool:
        """True where a request should not be read yet.

        Args:
            until: of the monotonic clock, after which it is read although others, which came before, may be large.
        """
        count = len(self._plain) + len(self._readings)
        if not count or self._timer is None or not self._crowded(count + 1):
            return False
        young = sum(steps <= PACE_STEPS for steps in self._plain.values())
        young += sum(reading.steps <= PACE_STEPS for reading in self._readings)
        grown = self._grown()
        return young >= self._room or grown > SHORT * self._limit or (grown > LITTLE * self._limit and time.monotonic() < until)

    def _wake(self) -> None:
        """Let requests that wait for it be read, if they may: the newest, whose clients have the most patience left."""
        for waiter in self._waiters[-1 : -self._room - 1 : -1]:
            if not waiter.done():
                waiter.set_result(None)

    def _crowded(self, count: int) -> bool:
        """True where so many requests could exceed the limit: each is there twice while gRPC makes Python's bytes of it."""
        return 2 * count * self._largest + self._service.pending_bytes > self._limit

    def _step(self) -> None:
        for reading in self._readings:
            reading.steps += 1
        for task in self._plain:
            self._plain[task] += 1
        if self._served() != self._models:  # loading and unloading changes what the process needs
            self._measure_base()
        self._give_back_if_grown()
        if self._grown() > ENDING * self._limit:
            self._end_some()
        self._wake()
        if self._waiters or self._service.pending_bytes or self._crowded(len(self._plain) + len(self._readings)):
            self._wait()
        else:
            self._timer = None
            self._give_back()

    def _grown(self) -> int:
        """Bytes by which the process has grown."""
        return (self._resident() or 0) - self._base

    def _give_back_if_grown(self) -> None:
        if self._grown() > SHORT * self._limit and time.monotonic() > self._trim_after:
            self._give_back()

    def _give_back(self) -> None:
        before = self._grown()
        self._trim()
        useful = before - self._grown() > TRIM_BYTES
        self._trim_after = time.monotonic() + (TRIM_SECONDS if useful else USELESS_TRIM_SECONDS)

    def _end_some(self) -> None:
        """End a part of what is being received, so that what has come of it is freed."""
        found = [reading for reading in self._readings if reading.steps > YOUNG_STEPS and not reading.future.done()]
        found.sort(key=lambda reading: -reading.steps if reading.steps < STALLED_STEPS else 0)
        for reading in found[-max(1, len(found) // PORTION) :]:
            reading.future.set_exception(QueueFullError(PENDING_FULL))


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell (it is Linux that does)."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give freed memory back to the system, where the C library is glibc: gRPC's is scattered between what is still used."""
    gc.collect()
    if _TRIM is not None:
        _TRIM(0)


def _glibc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None


_TRIM = _glibc_trim()
