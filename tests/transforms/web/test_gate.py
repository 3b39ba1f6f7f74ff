from __future__ import annotations

import asyncio

from facecap.transforms.web.gate import Gate


async def _hold(gate: Gate, host: str, log: list[str], seconds: float = 0.0) -> None:
    async with gate.slot(host):
        log.append(host)
        await asyncio.sleep(seconds)


def test_a_queue_before_one_host_holds_no_slot_of_the_others() -> None:
    async def scenario() -> list[str]:
        gate, log = Gate(concurrency=2, per_host=1, budget=1), list[str]()
        slow = [asyncio.create_task(_hold(gate, "slow", log, 0.05)) for _ in range(4)]
        await asyncio.sleep(0.01)
        await asyncio.gather(*(_hold(gate, f"host{i}", log) for i in range(5)))
        assert log.count("slow") == 1
        await asyncio.gather(*slow)
        return log

    assert len(asyncio.run(scenario())) == 9


def test_limits_hold() -> None:
    async def scenario() -> None:
        gate = Gate(concurrency=5, per_host=2, budget=1)
        inside: dict[str, int] = {}
        most: dict[str, int] = {}

        async def visit(host: str) -> None:
            async with gate.slot(host):
                for key in (host, "total"):
                    inside[key] = inside.get(key, 0) + 1
                    most[key] = max(most.get(key, 0), inside[key])
                await asyncio.sleep(0.002)
                for key in (host, "total"):
                    inside[key] -= 1

        await asyncio.gather(*(visit(f"host{i % 4}") for i in range(80)))
        assert most["total"] == 5
        assert max(most[f"host{i}"] for i in range(4)) == 2

    asyncio.run(scenario())


def test_unconsumed_bytes_shut_the_gate() -> None:
    async def scenario() -> None:
        gate, log = Gate(concurrency=2, per_host=2, budget=10), list[str]()
        gate.deliver(6)
        await _hold(gate, "a", log)
        gate.deliver(6)
        assert gate.full
        waiting = asyncio.create_task(_hold(gate, "b", log))
        await asyncio.sleep(0.01)
        assert log == ["a"]
        gate.consume(6)
        await asyncio.wait_for(waiting, 1)
        assert log == ["a", "b"]

    asyncio.run(scenario())
