"""Captions per second through the rewriting, by concurrency, over a server that answers after a
fixed time: what the client and the check cost. No model runs here."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from tests.llm_server import LlmServer

from facecap.schemas.captions import Caption
from facecap.transforms.recaption import ask_all
from facecap.transforms.rewrite.engine import RewriteConfig, Rewriter
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import load_prompts
from facecap.transforms.rewrite.rewriter import make_task


@dataclass(frozen=True)
class Round:
    """One concurrency's figures; `cpu_ms` is this process's processor time per caption, `ideal`
    what concurrency / latency would give."""

    concurrency: int
    captions: int
    seconds: float
    cpu_ms: float
    busiest: int
    outcomes: dict[str, int]
    ideal: float

    @property
    def rate(self) -> float:
        return self.captions / self.seconds


def measure(captions: list[Caption], concurrency: int, latency_ms: float) -> Round:
    """Rewrite all of `captions`, each once, and count what became of them."""
    with LlmServer(latency=latency_ms, log=False) as server:
        options = RewriteOptions(
            backend="openai", base_url=server.base_url, concurrency=concurrency
        )
        config = RewriteConfig(options, load_prompts())
        rewriter = Rewriter(config)
        desk = rewriter.open_desk()
        try:
            tasks = {
                i: make_task(caption, f"{i}", 0, config.styles, options)
                for i, caption in enumerate(captions)
            }
            outcomes: Counter[str] = Counter()
            began, cpu = time.perf_counter(), time.process_time()
            for _, done in ask_all(desk, tasks, config.in_flight):
                fault = done.rewrite.fault
                outcomes["passed" if fault is None else str(fault.kind)] += 1
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        finally:
            rewriter.close_desk(desk)
        busiest = int(server.stats()["busiest"])
    return Round(
        concurrency,
        len(captions),
        seconds,
        1000 * cpu / len(captions),
        busiest,
        dict(outcomes),
        concurrency / (latency_ms / 1000),
    )


def table(rounds: list[Round], latency_ms: float) -> str:
    """The rounds as a Markdown table."""
    lines = [
        f"A server on loopback that answers after {latency_ms:g} ms:",
        "",
        "| concurrency | captions | captions/s | of concurrency / latency | CPU ms each | most at "
        "a time | outcomes |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rounds:
        outcomes = ", ".join(f"{name} {n}" for name, n in sorted(r.outcomes.items()))
        lines.append(
            f"| {r.concurrency} | {r.captions} | {r.rate:.1f} | {r.rate / r.ideal:.0%} | "
            f"{r.cpu_ms:.2f} | {r.busiest} | {outcomes} |"
        )
    return "\n".join(lines)
