"""SIGTERM and SIGINT while Ray runs in the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal came while the server was starting."""


class Signals:
    """SIGTERM and SIGINT: the first sets ``stop``, a second one ends the process."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def listen(self) -> None:
        """To be called again after Ray has put its own handlers in their place."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self.stop.is_set():
            os._exit(128 + number)
        self.stop.set()

    def unless(self, work: Callable[[], None]) -> None:
        """Do something that takes a while, in another thread; an exception out of a signal's handler breaks Ray.

        Raises:
            Stopped: a signal came before it was done.
        """
        done: Future[None] = Future()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=run, daemon=True).start()
        while not done.done():
            if self.stop.wait(0.1):
                raise Stopped
        done.result()
