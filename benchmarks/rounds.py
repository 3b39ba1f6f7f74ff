"""The comparisons with peers: fetching alone, and the whole line."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import agree, tools, watch
from benchmarks.server import Server, SetupError

THREADS = (32, 64, 128)
"""img2dataset's --thread_count that are tried."""

LINE_THREADS = 32
"""Those of the line, where its two processes wait for the processor and not for the server."""

PLAIN_LOOP = "1 process, default threads"
TWO_LOOPS = "2 processes, 1 thread each"


@dataclass(frozen=True)
class Round:
    """One run of one tool. `seconds`: first request to last commit; `start_up` before that."""

    tool: str
    seconds: float
    start_up: float
    cpu_s: float
    server_cpu_s: float
    images: int

    @property
    def per_second(self) -> float:
        return self.images / self.seconds


@dataclass
class Comparison:
    """All rounds of a part. `extra` holds what only that part has."""

    ours: list[Round] = field(default_factory=list)
    peers: list[Round] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times the peers' images per second (medians)."""
        return median(self.ours) / median(self.peers)


def median(rounds: Sequence[Round]) -> float:
    """Images per second."""
    return statistics.median(r.per_second for r in rounds)


@dataclass(frozen=True)
class Bench:
    """What every part needs; `say` is told what goes on."""

    urls: Path
    rows: int
    model: Path
    server: Server
    folder: Path
    say: Callable[[str], None]
    keep: bool = False

    def run(
        self,
        name: str,
        command: Sequence[str],
        last_commit: Callable[[], float],
        images: Callable[[], int],
    ) -> Round:
        """Run a tool that fetches, and note its figures."""
        watched = watch.run(command, self.folder / f"{name}.log", server=self.server)
        if not watched.first_request:
            raise watch.ToolFailed(f"{name} asked the server for nothing")
        done = Round(
            name,
            watched.until(last_commit()),
            watched.first_request - watched.started,
            watched.cpu_s,
            watched.server_cpu_s,
            images(),
        )
        if done.images != self.rows:
            raise watch.ToolFailed(f"{name} wrote {done.images} images of {self.rows}")
        self.say(f"{name}: {done.per_second:.0f} images/s, start-up {done.start_up:.1f} s")
        return done

    def forget(self, name: str) -> None:
        """Remove what a peer's run, or our fetching, wrote: 12,000 bodies are 3.4 GB, and a machine
        whose memory is full of them measures its own swapping."""
        if not self.keep:
            shutil.rmtree(self.folder / name)

    def img2dataset(self, name: str, threads: int, options: Sequence[str]) -> Round:
        output = self.folder / name
        return self.run(
            name,
            tools.img2dataset(self.urls, output, threads, *options),
            lambda: tools.img2dataset_last_commit(output),
            lambda: tools.img2dataset_images(output),
        )

    def ours(self, name: str, command: Sequence[str]) -> Round:
        output = self.folder / name
        return self.run(
            name,
            command,
            lambda: tools.facecap_last_commit(output),
            lambda: tools.facecap_images(output),
        )


def fetch(bench: Bench, rounds: int) -> Comparison:
    """Fetching alone, in alternated rounds; img2dataset with its best number of threads."""
    result = Comparison()

    def peer(name: str, threads: int) -> Round:
        done = bench.img2dataset(name, threads, tools.WITHOUT_DECODING)
        bench.forget(name)
        return done

    tried = {n: peer(f"fetch-try-{n}", n).per_second for n in THREADS}
    best = max(tried, key=lambda n: tried[n])
    result.extra = {"threads": best, "tried": tried}
    for i in range(rounds):
        name = f"fetch-ours-{i}"
        command = tools.fetch_only(bench.urls, bench.folder / name)
        result.ours.append(bench.ours(name, command))
        bench.forget(name)
        result.peers.append(peer(f"fetch-img2dataset-{i}", best))
        bench.say(f"fetch, round {i + 1}: ratio {result.ratio:.2f}")
    return result


def line(bench: Bench, rounds: int, min_side: float, min_score: float) -> Comparison:
    """The whole line, in alternated rounds, against img2dataset at 640 px and then the loop,
    as its users write one, in one process; two processes of it are shown beside it."""
    result = Comparison()
    outputs: list[Path] = []
    for i in range(rounds):
        name = f"line-ours-{i}"
        command = tools.facecap(bench.urls, bench.folder / name, bench.server, bench.model)
        result.ours.append(bench.ours(name, command))
        stored = bench.img2dataset(f"line-img2dataset-{i}", LINE_THREADS, tools.AT_640)
        tars = sorted((bench.folder / stored.tool).glob("*.tar"))
        loops = {
            PLAIN_LOOP: loop(bench, f"loop-one-{i}", [tars], 0),
            TWO_LOOPS: loop(
                bench, f"loop-two-{i}", [tars[k :: tools.WORKERS] for k in range(tools.WORKERS)], 1
            ),
        }
        detected = loops[PLAIN_LOOP]
        bench.forget(stored.tool)
        result.peers.append(
            Round(
                f"img2dataset + loop, {PLAIN_LOOP}",
                stored.seconds + detected.seconds,
                stored.start_up + detected.start_up,
                stored.cpu_s + detected.cpu_s,
                stored.server_cpu_s,
                stored.images,
            )
        )
        result.extra[f"round {i}"] = {
            "img2dataset s": stored.seconds,
            **{f"loop s, {variant}": run.seconds for variant, run in loops.items()},
            **{
                f"ratio, {variant}": (stored.seconds + run.seconds) / result.ours[-1].seconds
                for variant, run in loops.items()
            },
        }
        bench.say(f"line, round {i + 1}: ratio {result.ratio:.2f}")
        outputs = sorted(bench.folder.glob(f"{detected.tool}-*.json"))
    mine = agree.ours(bench.folder / result.ours[-1].tool)
    theirs = agree.peers(outputs, min_side, min_score)
    result.extra["faces kept"] = {"facecap": agree.kept(mine), "peers": agree.kept(theirs)}
    result.extra["photographs"] = len(mine)
    result.extra["differences"] = agree.differences(mine, theirs)
    return result


def loop(bench: Bench, name: str, shares: list[list[Path]], threads: int) -> Round:
    """The detector's loop over tars, one process per share of them. Its model is loaded before
    the time starts; the time ends with the last process."""
    outputs = [bench.folder / f"{name}-{k}.json" for k in range(len(shares))]
    commands = [
        tools.scrfd_loop(bench.model, threads, output, tars)
        for output, tars in zip(outputs, shares, strict=True)
    ]
    watched = watch.run(tools.together(commands), bench.folder / f"{name}.log")
    started, ended, images = zip(*map(tools.loop_times, outputs), strict=True)
    seconds = max(ended) - min(started)
    bench.say(f"{name}: {sum(images) / seconds:.0f} images/s")
    return Round(name, seconds, min(started) - watched.started, watched.cpu_s, 0.0, sum(images))


def machine_is_busy() -> str | None:
    """A warning when others use this machine."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"load {load:.1f} on {cores} cores before the run" if load > 0.3 * cores else None


def need_peers() -> None:
    """Raises SetupError without the peers' environment."""
    if not tools.PEERS_PYTHON.exists():
        raise SetupError("the peers' environment is missing: make bench sets it up")
