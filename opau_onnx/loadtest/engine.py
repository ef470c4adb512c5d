"""The load: requests are sent over lanes until a bound is reached, and what becomes of each is counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from opau_onnx.loadtest.arrivals import Metronome, gaps
from opau_onnx.loadtest.connection import Client, Lane
from opau_onnx.loadtest.recorder import RIGHT, TIMED_OUT, UNREACHABLE, WRONG, Tally
from opau_onnx.loadtest.response_checker import Judge, Request
from opau_onnx.loadtest.settings import Settings

RETRY_S = 0.1
"""A client that could not connect waits so long."""
SWEEP_S = 0.25
"""How often, at most, it is looked for requests whose time is over."""
PROGRESS_S = 1.0
Progress = Callable[[str], None]


class Engine:
    """One load.

    Attributes:
        warmup, measured: what was counted.
        stopped: why it ended before its bounds; "" where it did not.
        unfinished: requests that were under way when it was stopped.
    """

    def __init__(self, client: Client, pool: Sequence[Request], settings: Settings, progress: Progress) -> None:
        self.warmup, self.measured = Tally(), Tally()
        self.stopped, self.unfinished = "", 0
        self._client, self._pool, self._settings, self._progress = client, pool, settings, progress
        self._judge = Judge(client.read, pool)
        self._tally = self.warmup
        self._lanes: list[Lane] = []
        self._free: list[Lane] = []
        self._waiting: deque[tuple[float, Tally]] = deque()
        self._next = self._under_way = 0
        self._ending = False
        self._alone_since: float | None = None
        self._said = 0.0
        self._done: asyncio.Future[None]
        self._phase: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._metronome: Metronome | None = None

    async def run(self) -> None:
        """Send until a bound is reached, and wait for the answers."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        closed = self._settings.rate is None
        try:
            await self._open(self._settings.lanes if closed else 1)
            self._begin_phases(loop)
            self._sweeper = loop.call_later(self._pause(), self._sweep)
            if closed:
                for lane in self._lanes:
                    self._issue(lane)
            else:
                self._start_arrivals()
            await self._done
        finally:
            self._clean_up()

    def stop(self, why: str) -> None:
        """End now; what is under way is given up and not counted."""
        if not self._done.done():
            self.stopped = self.stopped or why
            self._ending = True
            self.unfinished = self._under_way + len(self._waiting)
            self._done.set_result(None)

    async def _open(self, number: int) -> None:
        self._lanes = [self._client.lane(self._finished, self._check) for _ in range(number)]
        await asyncio.gather(*(lane.open() for lane in self._lanes))
        self._free = [] if self._settings.rate is None else list(self._lanes)

    def _start_arrivals(self) -> None:
        settings = self._settings
        assert settings.rate is not None
        self._metronome = Metronome(gaps(settings.rate, settings.arrivals, settings.seed), self._arrive)
        self._metronome.start()

    def _clean_up(self) -> None:
        if self._metronome is not None:
            self._metronome.stop()
            self._metronome.join()
        for timer in (self._phase, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._ending = True
        for lane in self._lanes:
            lane.abandon()

    # The phases.

    def _begin_phases(self, loop: asyncio.AbstractEventLoop) -> None:
        self.warmup.started = time.perf_counter()
        if self._settings.warmup_s:
            self._phase = loop.call_later(self._settings.warmup_s, self._measure)
        else:
            self._measure()

    def _measure(self) -> None:
        """The warm-up is over."""
        self._tally = self.measured
        self.measured.started = time.perf_counter()
        if self._settings.measured_s is not None:
            self._phase = asyncio.get_running_loop().call_later(self._settings.measured_s, self._time_is_over)

    def _time_is_over(self) -> None:
        self._end()
        self._end_if_idle()

    def _end(self) -> None:
        """Begin nothing more."""
        self._ending = True
        if self._metronome is not None:
            self._metronome.stop()

    def _end_if_idle(self) -> None:
        if self._ending and not self._under_way and not self._waiting and not self._done.done():
            self._done.set_result(None)

    def _begin(self) -> Tally | None:
        """The phase in which another request begins; None: none does."""
        if self._ending:
            return None
        tally = self._tally
        tally.begun += 1
        if tally is self.measured and tally.begun == self._settings.requests:
            self._end()
        return tally

    # Requests.

    def _issue(self, lane: Lane) -> None:
        """Closed loop: the lane's next request, if there is to be one."""
        tally = self._begin()
        if tally is None:
            self._end_if_idle()
        else:
            self._send(lane, time.perf_counter(), tally)

    def _arrive(self, due: float) -> None:
        """Open loop: a request arrives."""
        tally = self._begin()
        if tally is None:
            return
        if not self._free and len(self._lanes) < self._settings.lanes:
            self._lanes.append(self._client.lane(self._finished, self._check))
            self._free.append(self._lanes[-1])
        if self._free:
            self._send(self._free.pop(), due, tally)
        else:
            self._waiting.append((due, tally))

    def _send(self, lane: Lane, since: float, tally: Tally) -> None:
        request = self._pool[self._next]
        self._next = (self._next + 1) % len(self._pool)
        lane.since, lane.tally = since, tally
        self._under_way += 1
        tally.sent += len(request.message)
        timeout_s = self._settings.timeout_s
        if self._settings.rate is not None:
            delay = time.perf_counter() - since
            tally.delays.add(delay)
            timeout_s = max(timeout_s - delay, 0.001)
        lane.send(request, timeout_s)

    def _finished(self, lane: Lane, kind: str, reason: str, now: float, received: int) -> None:
        request, lane.request = lane.request, None
        if request is None or self._done.done():
            return
        self._under_way -= 1
        if kind == RIGHT:
            lane.tally.right(lane.since, now, request.rows, received)
        else:
            lane.tally.fault(kind, reason)
        if kind != UNREACHABLE:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        if self._settings.rate is not None:
            self._continue_open(lane)
        elif kind == UNREACHABLE:
            asyncio.get_running_loop().call_later(RETRY_S, self._retry, lane)
        else:
            self._issue(lane)

    def _retry(self, lane: Lane) -> None:
        if not self._done.done():
            self._issue(lane)

    def _continue_open(self, lane: Lane) -> None:
        if self._waiting:
            self._send(lane, *self._waiting.popleft())
        else:
            self._free.append(lane)
            self._end_if_idle()

    def _check(self, request: Request, content: Any) -> tuple[str, str]:
        try:
            return self._judge.check(request, content)
        except Exception as error:  # a fault of ours ends the test: it must not look like one of the server's
            if not self._done.done():
                self._done.set_exception(error)
            return WRONG, ""

    # What is looked at now and then.

    def _pause(self) -> float:
        return min(SWEEP_S, max(self._settings.timeout_s / 10, 0.005))

    def _sweep(self) -> None:
        now = time.perf_counter()
        overdue = now - self._settings.timeout_s
        while self._waiting and self._waiting[0][0] < overdue:
            _, tally = self._waiting.popleft()
            tally.fault(TIMED_OUT, "never sent: all connections were busy")
        for lane in self._lanes:
            if lane.request is not None and lane.since < overdue:
                lane.expire()
        if self._alone_since is not None and now - self._alone_since > self._settings.give_up_s:
            self.stop(f"the server could not be reached for {self._settings.give_up_s:g} s")
            return
        if now - self._said >= PROGRESS_S:
            self._said = now
            self._say()
        self._end_if_idle()
        self._sweeper = asyncio.get_running_loop().call_later(self._pause(), self._sweep)

    def _say(self) -> None:
        tally = self._tally
        phase = "warming up" if tally is self.warmup else "measuring"
        faults = tally.ended - tally.counts[RIGHT]
        self._progress(f"{phase}: {tally.counts[RIGHT]:,} right answers" + (f", {faults:,} faults" if faults else ""))
