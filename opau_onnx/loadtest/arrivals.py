"""When requests arrive in the open loop, whatever the server does."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal


def gaps(rate: float, kind: Literal["poisson", "uniform"], seed: int) -> Iterator[float]:
    """Seconds between arrivals, ``rate`` a second on average."""
    rng = random.Random(seed)
    while True:
        yield rng.expovariate(rate) if kind == "poisson" else 1.0 / rate


class Metronome:
    """Calls back on the event loop at each arrival, with the time at which it was due.

    A thread waits, since an event loop's own timers are late by up to a millisecond.

    Args:
        between: seconds between arrivals.
        arrive: called with the due time (time.perf_counter); late, never early, and in order.
    """

    def __init__(self, between: Iterator[float], arrive: Callable[[float], None]) -> None:
        self._between, self._arrive = between, arrive
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="opau-loadtest arrivals", daemon=True)

    def start(self) -> None:
        """Begin with the first gap now."""
        self._thread.start()

    def stop(self) -> None:
        """No further call is made."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for the thread; after :meth:`stop`."""
        self._thread.join()

    def _tick(self) -> None:
        due = time.perf_counter()
        for gap in self._between:
            due += gap
            ahead = due - time.perf_counter()
            if self._stopped.wait(max(ahead, 0.0)):
                return
            self._loop.call_soon_threadsafe(self._ring, due)

    def _ring(self, due: float) -> None:
        if not self._stopped.is_set():
            self._arrive(due)
