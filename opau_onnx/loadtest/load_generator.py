"""The load generator: sends requests over connections until a bound is reached, and records their outcomes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from opau_onnx.loadtest.arrivals import ArrivalTimer, interarrival_times
from opau_onnx.loadtest.config import LoadTestConfig
from opau_onnx.loadtest.connection import Client, Connection
from opau_onnx.loadtest.recorder import CONNECTION_FAILED, CORRECT, INCORRECT, TIMED_OUT, Recorder
from opau_onnx.loadtest.response_checker import PreparedRequest, ResponseChecker

RETRY_S = 0.1
"""Seconds that a client waits after a failed connection."""
SWEEP_S = 0.25
"""Longest interval between two searches for requests whose deadline is exceeded."""
PROGRESS_S = 1.0
Progress = Callable[[str], None]


class LoadGenerator:
    """Load of one test.

    Attributes:
        warmup, measured: recorders of the two phases.
        stopped: reason why it ended early; "" where it did not.
        unfinished: requests in flight when it was stopped.
    """

    def __init__(self, client: Client, pool: Sequence[PreparedRequest], settings: LoadTestConfig, progress: Progress) -> None:
        self.warmup, self.measured = Recorder(), Recorder()
        self.stopped, self.unfinished = "", 0
        self._client, self._pool, self._settings, self._progress = client, pool, settings, progress
        self._checker = ResponseChecker(client.parse, pool)
        self._recorder = self.warmup
        self._connections: list[Connection] = []
        self._free: list[Connection] = []
        self._waiting: deque[tuple[float, Recorder]] = deque()
        self._next = self._in_flight = 0
        self._ending = False
        self._unreachable_since: float | None = None
        self._reported_at = 0.0
        self._done: asyncio.Future[None]
        self._phase: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._arrival_timer: ArrivalTimer | None = None

    async def run(self) -> None:
        """Send until a bound is reached, and wait for the responses."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        closed = self._settings.rate is None
        try:
            await self._open(self._settings.connections if closed else 1)
            self._begin_phases(loop)
            self._sweeper = loop.call_later(self._sweep_interval(), self._sweep)
            if closed:
                for connection in self._connections:
                    self._issue(connection)
            else:
                self._start_arrivals()
            await self._done
        finally:
            self._clean_up()

    def stop(self, reason: str) -> None:
        """End now; requests in flight are cancelled and not counted."""
        if not self._done.done():
            self.stopped = self.stopped or reason
            self._ending = True
            self.unfinished = self._in_flight + len(self._waiting)
            self._done.set_result(None)

    async def _open(self, number: int) -> None:
        self._connections = [self._client.connection(self._finished, self._check) for _ in range(number)]
        await asyncio.gather(*(connection.open() for connection in self._connections))
        self._free = [] if self._settings.rate is None else list(self._connections)

    def _start_arrivals(self) -> None:
        settings = self._settings
        assert settings.rate is not None
        self._arrival_timer = ArrivalTimer(interarrival_times(settings.rate, settings.arrivals, settings.seed), self._arrive)
        self._arrival_timer.start()

    def _clean_up(self) -> None:
        if self._arrival_timer is not None:
            self._arrival_timer.stop()
            self._arrival_timer.join()
        for timer in (self._phase, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._ending = True
        for connection in self._connections:
            connection.abandon()

    # Phases.

    def _begin_phases(self, loop: asyncio.AbstractEventLoop) -> None:
        self.warmup.started = time.perf_counter()
        if self._settings.warmup_s:
            self._phase = loop.call_later(self._settings.warmup_s, self._measure)
        else:
            self._measure()

    def _measure(self) -> None:
        """End the warm-up."""
        self._recorder = self.measured
        self.measured.started = time.perf_counter()
        if self._settings.measured_s is not None:
            self._phase = asyncio.get_running_loop().call_later(self._settings.measured_s, self._time_out_measurement)

    def _time_out_measurement(self) -> None:
        self._end()
        self._end_if_idle()

    def _end(self) -> None:
        """Send no further request."""
        self._ending = True
        if self._arrival_timer is not None:
            self._arrival_timer.stop()

    def _end_if_idle(self) -> None:
        if self._ending and not self._in_flight and not self._waiting and not self._done.done():
            self._done.set_result(None)

    def _begin(self) -> Recorder | None:
        """Recorder of the phase in which the next request starts; None where there is none."""
        if self._ending:
            return None
        recorder = self._recorder
        recorder.started_requests += 1
        if recorder is self.measured and recorder.started_requests == self._settings.requests:
            self._end()
        return recorder

    # Requests.

    def _issue(self, connection: Connection) -> None:
        """Closed loop: send the connection's next request, unless the load ends."""
        recorder = self._begin()
        if recorder is None:
            self._end_if_idle()
        else:
            self._send(connection, time.perf_counter(), recorder)

    def _arrive(self, due: float) -> None:
        """Open loop: send the arriving request, or let it wait for a connection."""
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
        self._in_flight += 1
        recorder.sent += len(request.message)
        timeout_s = self._settings.timeout_s
        if self._settings.rate is not None:
            delay = time.perf_counter() - since
            recorder.delays.add(delay)
            timeout_s = max(timeout_s - delay, 0.001)
        connection.send(request, timeout_s)

    def _finished(self, connection: Connection, outcome: str, reason: str, now: float, received: int) -> None:
        request, connection.request = connection.request, None
        if request is None or self._done.done():
            return
        self._in_flight -= 1
        if outcome == CORRECT:
            connection.recorder.record_success(connection.since, now, request.rows, received)
        else:
            connection.recorder.record_error(outcome, reason)
        if outcome != CONNECTION_FAILED:
            self._unreachable_since = None
        elif self._unreachable_since is None:
            self._unreachable_since = now
        if self._settings.rate is not None:
            self._continue_open(connection)
        elif outcome == CONNECTION_FAILED:
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

    def _check(self, request: PreparedRequest, content: Any) -> tuple[str, str]:
        try:
            return self._checker.check(request, content)
        except Exception as error:  # our own error ends the test: it must not count as the server's
            if not self._done.done():
                self._done.set_exception(error)
            return INCORRECT, ""

    # Periodic work.

    def _sweep_interval(self) -> float:
        return min(SWEEP_S, max(self._settings.timeout_s / 10, 0.005))

    def _sweep(self) -> None:
        now = time.perf_counter()
        overdue = now - self._settings.timeout_s
        while self._waiting and self._waiting[0][0] < overdue:
            _, recorder = self._waiting.popleft()
            recorder.record_error(TIMED_OUT, "never sent: all connections were busy")
        for connection in self._connections:
            if connection.request is not None and connection.since < overdue:
                connection.expire()
        if self._unreachable_since is not None and now - self._unreachable_since > self._settings.unreachable_timeout_s:
            self.stop(f"the server could not be reached for {self._settings.unreachable_timeout_s:g} s")
            return
        if now - self._reported_at >= PROGRESS_S:
            self._reported_at = now
            self._report()
        self._end_if_idle()
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_interval(), self._sweep)

    def _report(self) -> None:
        recorder = self._recorder
        phase = "warming up" if recorder is self.warmup else "measuring"
        errors = recorder.ended - recorder.counts[CORRECT]
        self._progress(f"{phase}: {recorder.counts[CORRECT]:,} correct responses" + (f", {errors:,} errors" if errors else ""))
