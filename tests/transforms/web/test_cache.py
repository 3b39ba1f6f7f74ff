from __future__ import annotations

import asyncio

import pytest

from facecap.transforms.web.cache import Entry, SharedCache


class Loads:
    """Counts loads; a key starting with `slow` takes a while, `boom` raises."""

    def __init__(self, seconds: float = 60.0, cost: int = 1) -> None:
        self.keys: list[str] = []
        self._entry = seconds, cost

    async def __call__(self, key: str) -> Entry[str]:
        self.keys.append(key)
        await asyncio.sleep(0.05 if key.startswith("slow") else 0)
        if key == "boom":
            raise ZeroDivisionError
        return Entry(key.upper(), *self._entry)


def test_waiters_share_one_load_and_a_cancelled_one_does_not_stop_it() -> None:
    async def scenario() -> None:
        loads = Loads()
        cache = SharedCache(loads, 10)
        waiters = [asyncio.create_task(cache.get("slow")) for _ in range(5)]
        await asyncio.sleep(0.01)
        waiters[0].cancel()
        got = await asyncio.gather(*waiters, return_exceptions=True)
        assert got[1:] == ["SLOW"] * 4
        assert await cache.get("slow") == "SLOW"
        assert loads.keys == ["slow"]
        await cache.close()

    asyncio.run(scenario())


def test_entries_expire_and_the_least_recently_used_goes_first() -> None:
    async def scenario() -> None:
        loads = Loads(seconds=0.0)
        cache = SharedCache(loads, 10)
        await cache.get("a")
        await cache.get("a")
        assert loads.keys == ["a", "a"]
        loads = Loads(cost=4)
        cache = SharedCache(loads, 10)
        for key in ("a", "b", "a", "c", "a", "b"):
            await cache.get(key)
        assert loads.keys == ["a", "b", "c", "b"]

    asyncio.run(scenario())


def test_an_exception_reaches_all_waiters_and_is_not_kept() -> None:
    async def scenario() -> None:
        loads = Loads()
        cache = SharedCache(loads, 10)
        got = await asyncio.gather(cache.get("boom"), cache.get("boom"), return_exceptions=True)
        assert [type(error) for error in got] == [ZeroDivisionError] * 2
        with pytest.raises(ZeroDivisionError):
            await cache.get("boom")
        assert loads.keys == ["boom", "boom"]

    asyncio.run(scenario())


def test_close_cancels_loads() -> None:
    async def scenario() -> None:
        cache = SharedCache(Loads(), 10)
        waiter = asyncio.create_task(cache.get("slow"))
        await asyncio.sleep(0.01)
        await cache.close()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(scenario())
