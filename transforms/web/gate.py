"""Who may start a request: limits per host and in total, and a stop while the bodies that
nobody has taken yet fill their budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class _Lane:
    slots: asyncio.Semaphore
    users: int = 0


class Gate:
    """Waiting happens in the order host, total, bytes, so a queue before a slow host holds
    none of the slots that other hosts need. Only starting waits for bytes: whoever is inside
    always finishes, so the bodies in memory never exceed the budget by more than
    concurrency x max_bytes, and nothing can lock up.
    """

    def __init__(self, concurrency: int, per_host: int, budget: int) -> None:
        self._per_host = per_host
        self._total = asyncio.Semaphore(concurrency)
        self._lanes: dict[str, _Lane] = {}
        self._budget = budget
        self._unconsumed = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether nobody is let in until bytes are consumed. Safe to read from any thread."""
        return self._unconsumed >= self._budget

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Hold one request slot for `host`."""
        lane = self._lanes.setdefault(host, _Lane(asyncio.Semaphore(self._per_host)))
        lane.users += 1
        try:
            async with lane.slots, self._total:
                await self._room.wait()
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[host]

    def deliver(self, size: int) -> None:
        """`size` bytes are complete and wait to be consumed."""
        self._unconsumed += size
        if self.full:
            self._room.clear()

    def consume(self, size: int) -> None:
        """`size` of the bytes delivered are gone."""
        self._unconsumed -= size
        if not self.full:
            self._room.set()
