from __future__ import annotations

import asyncio
import time

import pytest

from facecap.transforms.rewrite import pace
from facecap.transforms.rewrite.pace import Pace, backoff


def test_backoff_grows_to_its_cap_with_full_jitter() -> None:
    for attempt in (0, 1, 4, 9, 5000):
        most = min(pace.MAX_BACKOFF_S, pace.FIRST_BACKOFF_S * 2 ** min(attempt, 10))
        drawn = [backoff(attempt, None) for _ in range(400)]
        assert 0 <= min(drawn) < 0.1 * most
        assert 0.9 * most < max(drawn) <= most


def test_backoff_is_never_less_than_asked_for_up_to_a_bound() -> None:
    assert backoff(0, 12.0) == 12.0
    assert backoff(0, 1e9) == pace.MAX_PAUSE_S


def test_slots_are_bounded_and_given_in_order() -> None:
    async def scenario() -> tuple[int, list[int]]:
        gate, busy, most, order = Pace(3), 0, 0, []

        async def visit(number: int) -> None:
            nonlocal busy, most
            async with gate.slot():
                order.append(number)
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(0.001)
                busy -= 1

        await asyncio.gather(*(visit(number) for number in range(50)))
        return most, order

    assert asyncio.run(scenario()) == (3, list(range(50)))


def test_a_pause_holds_everybody_and_halves_the_slots() -> None:
    async def scenario() -> None:
        gate, entered, leave = Pace(8), list[float](), asyncio.Event()

        async def visit() -> None:
            async with gate.slot() as began:
                entered.append(began)
                await leave.wait()

        async with gate.slot() as began:
            gate.slow_down(0.2, began)
            gate.slow_down(0.1, began)  # of the same moment: neither shorter nor slower
            paused = time.monotonic()
        tasks = [asyncio.create_task(visit()) for _ in range(8)]
        await asyncio.sleep(0.1)
        assert entered == []
        await asyncio.sleep(0.2)
        assert len(entered) == 4
        assert min(entered) - paused >= 0.19
        for _ in range(50):  # answers give the slots back, and no more than there were
            gate.answered()
        leave.set()
        await asyncio.gather(*tasks)
        leave.clear()
        tasks = [asyncio.create_task(visit()) for _ in range(9)]
        await asyncio.sleep(0.01)
        assert len(entered) == 8 + 8
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_pauses_one_after_the_other_leave_one_slot() -> None:
    async def scenario() -> int:
        gate, busy, most = Pace(8), 0, 0
        for _ in range(6):
            async with gate.slot() as began:
                await asyncio.sleep(0)
                gate.slow_down(0.001, began)

        async def visit() -> None:
            nonlocal busy, most
            async with gate.slot():
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(0.002)
                busy -= 1

        await asyncio.gather(*(visit() for _ in range(5)))
        return most

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize("moment", ["queued", "granted", "inside"])
def test_a_cancelled_visitor_gives_its_slot_back(moment: str) -> None:
    async def scenario() -> None:
        gate = Pace(1)

        async def visit(seconds: float) -> None:
            async with gate.slot():
                await asyncio.sleep(seconds)

        async with gate.slot():
            visitor = asyncio.create_task(visit(60))
            await asyncio.sleep(0)
            if moment == "queued":
                visitor.cancel()
        # It has been given the slot, and runs at the loop's next step.
        if moment == "inside":
            await asyncio.sleep(0)
        visitor.cancel()
        await asyncio.gather(visitor, return_exceptions=True)
        await asyncio.wait_for(visit(0), 1)

    asyncio.run(scenario())
