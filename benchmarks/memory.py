"""Memory of a whole build: the peak of all its processes together, for few rows and for many."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tools, watch
from benchmarks.rounds import Bench
from benchmarks.server import SetupError


@dataclass(frozen=True)
class Peak:
    """The largest sum of PSS, in bytes, and what each process had then."""

    rows: int
    bytes: int
    processes: list[str]


def check_base_install() -> None:
    """Raises SetupError where torch is installed: Beam's RunInference imports it."""
    if importlib.util.find_spec("torch") is not None:
        raise SetupError("torch is installed here: memory is measured on the base install")


def peak(bench: Bench, urls: Path, rows: int) -> Peak:
    """The peak of a build of `urls`, sampled every watch.MEMORY_POLL_S seconds."""
    name = f"memory-{rows}"
    command = tools.facecap(urls, bench.folder / name, bench.server, bench.model)
    watched = watch.run(command, bench.folder / f"{name}.log", server=bench.server, memory=True)
    bench.say(f"{name}: {watched.peak / 1e9:.2f} GB")
    return Peak(rows, watched.peak, watched.processes_at_peak)
