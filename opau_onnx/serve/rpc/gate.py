"""Which calls are let in, and when the last of them has ended.

gRPC's own way to stop drops calls that it has received and not yet handed over: their clients see CANCELLED, or wait until
their deadline. So the server goes on taking calls while it goes down, and refuses them itself, until none come any more.
Clients that do not stop calling are kept waiting at last, so that none of their calls is on its way when the connections end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

QUIET_SECONDS = 0.1
"""Without any call, after which none is taken to be on its way."""
LINGER_SECONDS = 1.0
"""For which calls are refused at once."""
HOLD_SECONDS = 0.5
"""For which they are kept waiting then, at most."""
STEP_SECONDS = 0.01
LATE_SECONDS = 0.03
"""Between two looks, above which the event loop is busy."""


class Gate:
    """Counts calls. It belongs to one event loop.

    Attributes:
        closed: whether new calls are refused.
        active: calls that have not ended; their responses were not sent.
    """

    def __init__(self) -> None:
        self.closed = False
        self.active = 0
        self._last = self._closed_at = time.monotonic()
        self._refusing = asyncio.Event()
        self._refusing.set()

    def enter(self, context: Any) -> None:
        """A call begins; it ends with its context."""
        self.active += 1
        context.add_done_callback(self._left)

    def _left(self, context: Any) -> None:
        self.active -= 1
        self._last = time.monotonic()

    async def refusal(self) -> None:
        """A call came to the closed gate; returns when it is to be refused."""
        self._last = time.monotonic()
        await self._refusing.wait()

    def close(self) -> None:
        """Let no new calls in."""
        self.closed = True
        self._last = self._closed_at = time.monotonic()

    async def emptied(self, grace: float) -> None:
        """Wait until the last response was sent and no call is on its way, or for ``grace`` seconds.

        Calls that came in the last moments are refused after :meth:`release`.
        """
        before = self._closed_at
        while (now := time.monotonic()) < self._closed_at + grace:
            if now - before > LATE_SECONDS:  # calls may be there that the event loop has not come to
                self._last = now
            before = now
            lingered = now - self._closed_at - LINGER_SECONDS
            if lingered > 0:
                self._refusing.clear()
            if not self.active and (now - self._last >= QUIET_SECONDS or lingered >= HOLD_SECONDS):
                break
            await asyncio.sleep(STEP_SECONDS)

    def release(self) -> None:
        """Refuse the calls that wait."""
        self._refusing.set()
