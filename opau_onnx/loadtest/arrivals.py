"""Arrival times of requests in the open loop, independent of the server."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal


def interarrival_times(rate: float, kind: Literal["poisson", "uniform"], seed: int) -> Iterator[float]:
    """Seconds between arrivals, ``rate`` a second on average."""
    rng = random.Random(seed)
    while True:
        yield rng.expovariate(rate) if kind == "poisson" else 1.0 / rate


class ArrivalTimer:
    """Calls back on the event loop at each arrival, with its due time.

    A thread waits, since the event loop's timers are late by up to a millisecond.

    Args:
        intervals: seconds between arrivals.
        arrive: called with the due time (time.perf_counter); late, never early, and in order.
    """

    def __init__(self, intervals: Iterator[float], arrive: Callable[[float], None]) -> None:
        self._intervals, self._arrive = intervals, arrive
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="opau-loadtest arrivals", daemon=True)

    def start(self) -> None:
        """Start; the first interval begins now."""
        self._thread.start()

    def stop(self) -> None:
        """Stop calling back."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for the thread; after :meth:`stop`."""
        self._thread.join()

    def _run(self) -> None:
        due = time.perf_counter()
        for interval in self._intervals:
            due += interval
            ahead = due - time.perf_counter()
            if self._stopped.wait(max(ahead, 0.0)):
                return
            self._loop.call_soon_threadsafe(self._fire, due)

    def _fire(self, due: float) -> None:
        if not self._stopped.is_set():
            self._arrive(due)
