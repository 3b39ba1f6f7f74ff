"""A cache for answers that several waiters want at once (DNS, robots.txt)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class Entry(NamedTuple, Generic[Value]):
    """A loaded value, for how many seconds it holds, and what it costs to keep."""

    value: Value
    seconds: float
    cost: int = 1


class SharedCache(Generic[Value]):
    """One load in flight per key, shared by all waiters, bounded by the sum of costs (least
    recently used entries go first). Expected failures are values like any other; an exception
    from `load` reaches all waiters and is not kept.
    """

    def __init__(self, load: Callable[[str], Awaitable[Entry[Value]]], max_cost: int) -> None:
        self._load = load
        self._room = max_cost
        self._kept: OrderedDict[str, tuple[float, Entry[Value]]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Value]] = {}

    async def get(self, key: str) -> Value:
        """The value of `key`. A cancelled waiter does not cancel the load of the others."""
        if key in self._kept:
            expires, entry = self._kept[key]
            if time.monotonic() < expires:
                self._kept.move_to_end(key)
                return entry.value
            self._forget(key)
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._run(key))
            self._loading[key] = task
        return await asyncio.shield(task)

    async def _run(self, key: str) -> Value:
        try:
            entry = await self._load(key)
        finally:
            del self._loading[key]
        self._kept[key] = (time.monotonic() + entry.seconds, entry)
        self._room -= entry.cost
        while self._room < 0:
            self._forget(next(iter(self._kept)))
        return entry.value

    def _forget(self, key: str) -> None:
        self._room += self._kept.pop(key)[1].cost

    async def close(self) -> None:
        """Cancel the loads in flight and wait for them."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
