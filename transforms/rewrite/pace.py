"""How fast a server may be asked: requests at a time, pauses that it asked for, and how long a
failed request waits before its next attempt."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
MAX_PAUSE_S = 60.0
"""The longest Retry-After that is obeyed."""


def ceiling(attempt: int) -> float:
    """The longest wait in seconds after failed attempt number `attempt`, from 0."""
    return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt, 16))


def backoff(attempt: int, asked: float | None) -> float:
    """Seconds to wait after failed attempt number `attempt`, from 0: exponential with full jitter,
    and never less than the server asked for (`asked`, of which MAX_PAUSE_S are obeyed)."""
    return max(random.uniform(0.0, ceiling(attempt)), min(asked or 0.0, MAX_PAUSE_S))


class Pace:
    """Slots for requests, given in the order they are asked for. To be used in one event loop.

    A server that limits rates is not hammered: nobody gets a slot while the pace is paused, and
    every pause halves the number of slots; every answer gives back a part of one, so that a full
    round of answers gives back one (additive increase, multiplicative decrease, as TCP does).
    """

    def __init__(self, slots: int) -> None:
        self._most = slots
        self._slots = float(slots)
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = 0.0
        self._slowed_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Hold one slot; gives the loop's time at which it was had."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # it was given a slot and cancelled at the same time
            raise
        try:
            yield loop.time()
        finally:
            self._leave()

    def slow_down(self, seconds: float, began: float) -> None:
        """Pause, for a request that got its slot at `began`. Those that were under way at the last
        pause tell nothing new: they may make this pause longer, and halve nothing."""
        now = asyncio.get_running_loop().time()
        self._paused_until = max(self._paused_until, now + min(seconds, MAX_PAUSE_S))
        if began > self._slowed_at:
            self._slowed_at = now
            self._slots = max(1.0, self._slots / 2)

    def answered(self) -> None:
        """A request has been answered: the server keeps up."""
        self._slots = min(self._most, self._slots + 1 / self._slots)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._busy -= 1
        self._admit()

    def _admit(self) -> None:
        if self._timer is not None or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._paused_until:
            self._timer = loop.call_at(self._paused_until, self._wake)
            return
        while self._waiting and self._busy < int(self._slots):
            turn = self._waiting.popleft()
            if not turn.done():  # or it was cancelled while it queued
                turn.set_result(None)
                self._busy += 1

    def _wake(self) -> None:
        self._timer = None
        self._admit()
