"""The load: requests are sent over lanes until a bound is reached, and what becomes of each is counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from opau_onnx.loadtest.arrivals import Metronome, gaps
from opau_onnx.loadtest.connection import Client, Connection
from opau_onnx.loadtest.recorder import RIGHT, TIMED_OUT, UNREACHABLE, WRONG, Recorder
from opau_onnx.loadtest.response_checker import Request, ResponseChecker
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
        self.warmup, self.measured = Recorder(), Recorder()
        self.stopped, self.unfinished = "", 0
        self._client, self._pool, self._settings, self._progress = client, pool, settings, progress
        self._judge = ResponseChecker(client.read, pool)
        self._tally = self.warmup
        self._connections: list[Connection] = []
        self._free: list[Connection] = []
        self._waiting: deque[tuple[float, Recorder]] = deque()
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
            await self._open(self._settings.connections if closed else 1)
            self._begin_phases(loop)
            self._sweeper = loop.call_later(self._pause(), self._sweep)
            if closed:
                for connection in self._connections:
                    self._issue(connection)
            else:
                self._start_arrivals()
            await self._done
        finally:
            self._clean_up()

    def stop(self, reason: str) -> None:
        """End now; what is under way is given up and not counted."""
        if not self._done.done():
            self.stopped = self.stopped or reason
            self._ending = True
            self.unfinished = self._under_way + len(self._waiting)
            self._done.set_result(None)

    async def _open(self, number: int) -> None:
        self._connections = [self._client.connection(self._finished, self._check) for _ in range(number)]
        await asyncio.gather(*(connection.open() for connection in self._connections))
        self._free = [] if self._settings.rate is None else list(self._connections)

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
        for connection in self._connections:
            connection.abandon()

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

    def _begin(self) -> Recorder | None:
        """The phase in which another request begins; None: none does."""
        if self._ending:
            return None
        recorder = self._tally
        recorder.begun += 1
        if recorder is self.measured and recorder.begun == self._settings.requests:
            self._end()
        return recorder

    # Requests.

    def _issue(self, connection: Connection) -> None:
        """Closed loop: the lane's next request, if there is to be one."""
        recorder = self._begin()
        if recorder is None:
            self._end_if_idle()
        else:
            self._send(connection, time.perf_counter(), recorder)

    def _arrive(self, due: float) -> None:
        """Open loop: a request arrives."""
        recorder = self._begin()
        if recorder is None:
            return
        if not self._free and len(self._connections) < self._settings.connections:
            self._connections.append(self._client.connection(self._finished, self._check))
            self._free.append(self._connections[-1])
        if self._free:
            self._send(self._free.pop(), due, recorder)
        else:
            self._waiting.append((due, recorder))

    def _send(self, connection: Connection, since: float, recorder: Recorder) -> None:
        request = self._pool[self._next]
        self._next = (self._next + 1) % len(self._pool)
        connection.since, connection.recorder = since, recorder
        self._under_way += 1
        recorder.sent += len(request.message)
        timeout_s = self._settings.timeout_s
        if self._settings.rate is not None:
            delay = time.perf_counter() - since
            recorder.delays.add(delay)
            timeout_s = max(timeout_s - delay, 0.001)
        connection.send(request, timeout_s)

    def _finished(self, connection: Connection, kind: str, reason: str, now: float, received: int) -> None:
        request, connection.request = connection.request, None
        if request is None or self._done.done():
            return
        self._under_way -= 1
        if kind == RIGHT:
            connection.recorder.right(connection.since, now, request.rows, received)
        else:
            connection.recorder.fault(kind, reason)
        if kind != UNREACHABLE:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        if self._settings.rate is not None:
            self._continue_open(connection)
        elif kind == UNREACHABLE:
            asyncio.get_running_loop().call_later(RETRY_S, self._retry, connection)
        else:
            self._issue(connection)

    def _retry(self, connection: Connection) -> None:
        if not self._done.done():
            self._issue(connection)

    def _continue_open(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._free.append(connection)
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
            _, recorder = self._waiting.popleft()
            recorder.fault(TIMED_OUT, "never sent: all connections were busy")
        for connection in self._connections:
            if connection.request is not None and connection.since < overdue:
                connection.expire()
        if self._alone_since is not None and now - self._alone_since > self._settings.give_up_s:
            self.stop(f"the server could not be reached for {self._settings.give_up_s:g} s")
            return
        if now - self._said >= PROGRESS_S:
            self._said = now
            self._say()
        self._end_if_idle()
        self._sweeper = asyncio.get_running_loop().call_later(self._pause(), self._sweep)

    def _say(self) -> None:
        recorder = self._tally
        phase = "warming up" if recorder is self.warmup else "measuring"
        faults = recorder.ended - recorder.counts[RIGHT]
        self._progress(f"{phase}: {recorder.counts[RIGHT]:,} right answers" + (f", {faults:,} faults" if faults else ""))
