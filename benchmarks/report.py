"""The tables of a run, its floors and docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import yaml

from benchmarks import kernels, rounds, tools
from benchmarks.agree import Difference
from benchmarks.memory import Peak
from benchmarks.rounds import Comparison

CORES = tools.WORKERS
"""What the kernel share is measured against."""

OURS = ("apache-beam", "aiohttp", "uvloop", "onnxruntime", "opencv-python-headless", "pillow")
PEERS = ("img2dataset", "insightface", "onnxruntime", "opencv-python-headless", "py-spy")


@dataclass
class Results:
    """What a run measured; None for the parts that it left out."""

    rows: int
    photographs: int
    fetch: Comparison | None = None
    line: Comparison | None = None
    kernels: dict[str, float] | None = None
    bare_after: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    few: Peak | None = None
    many: Peak | None = None
    warning: str | None = None

    @property
    def kernel_share(self) -> float | None:
        """The bare calls' part of wall time x cores of the whole line."""
        if self.kernels is None or self.line is None:
            return None
        return self.bare * rounds.median(self.line.ours) / CORES

    @property
    def bare(self) -> float:
        """Seconds per image of the bare calls: the mean of before and after the builds, for the
        machine is not equally fast at all times."""
        assert self.kernels is not None
        before = kernels.bare_seconds(self.kernels)
        return before if self.bare_after is None else (before + self.bare_after) / 2

    @property
    def figures(self) -> dict[str, float]:
        """The figures that have a floor, as far as they were measured."""
        measured: dict[str, float | None] = {
            "fetch_ratio": self.fetch.ratio if self.fetch else None,
            "line_ratio": self.line.ratio if self.line else None,
            "line_ratio_two_loops": two_loops(self.line) if self.line else None,
            "different_faces": len(self.line.extra["differences"]) if self.line else None,
            "kernel_share": self.kernel_share,
            "peak_gb": self.many.bytes / 1e9 if self.many else None,
            "memory_growth": self.many.bytes / self.few.bytes if self.many and self.few else None,
        }
        return {name: value for name, value in measured.items() if value is not None}


def two_loops(line: Comparison) -> float | None:
    """The ratio of the line where the peers' loop runs in two processes (median of the rounds)."""
    name = f"ratio, {rounds.TWO_LOOPS}"
    ratios = [r[name] for k, r in line.extra.items() if k.startswith("round ")]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Floor:
    """A figure and the limit that it was checked against."""

    name: str
    value: float
    limit: str
    passed: bool
    note: str


def floors(results: Results) -> list[Floor]:
    """Every floor whose figure was measured."""
    limits = yaml.safe_load((Path(__file__).parent / "floors.yaml").read_text())
    return [_floor(name, value, **limits[name]) for name, value in results.figures.items()]


def _floor(
    name: str, value: float, note: str, least: float | None = None, most: float | None = None
) -> Floor:
    passed = (least is None or value >= least) and (most is None or value <= most)
    limit = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return Floor(name, value, limit, passed, note)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def document(results: Results) -> str:
    """The whole report, in Markdown."""
    checked = [
        [f.name, f"**{f.value:.2f}**", f.limit, "PASS" if f.passed else "FAIL", f.note]
        for f in floors(results)
    ]
    text = [
        "# Benchmarks\n",
        f"Written by `make bench`: {results.rows} URLs over {results.photographs} photographs, "
        "served by nginx on loopback on the same cores; 2 workers, no limit per host, robots.txt "
        "respected (by facecap; img2dataset has no such check). Seconds, and CPU seconds, count "
        "from the first request that the server sees, to the last finished shard; start-up stands "
        "apart. Every round has its row; the medians of all rounds count.\n",
        machine(),
        f"**The machine was busy: {results.warning}.**\n" if results.warning else "",
        table(("figure", "value", "floor", "", "what"), checked),
    ]
    if results.fetch:
        text += ["## Fetching alone\n", _fetch_note(results.fetch), _rounds(results.fetch)]
    if results.line:
        text += ["## The whole line, SCRFD-500m\n", _line_note(), _rounds(results.line)]
        text += [_variants(results.line), _differences(results.line)]
    if results.kernels:
        text += ["## The kernel limit\n", _kernels(results)]
    if results.few and results.many:
        text += ["## Memory\n", _memory(results.few, results.many)]
    return "\n".join(part for part in text if part)


def machine() -> str:
    """Cores, processor, Python, versions and the date, as a Markdown list."""
    ask = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]), sep='\\n')"
    command = [str(tools.PEERS_PYTHON), "-c", ask, *PEERS]
    asked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    peers = ", ".join(f"{name} {found}" for name, found in zip(PEERS, asked, strict=True))
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.partition(":")[2].strip() for x in info if x.startswith("model name")), "?")
    return "\n".join(
        (
            f"- {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {model}, {platform.system()} "
            f"{platform.release().split('-')[0]}, Python {platform.python_version()}",
            "- facecap: " + ", ".join(f"{name} {version(name)}" for name in OURS),
            f"- peers: {peers}\n",
        )
    )


def _rounds(comparison: Comparison) -> str:
    rows = []
    for i, (ours, peers) in enumerate(zip(comparison.ours, comparison.peers, strict=True)):
        rows.append(
            [
                f"{ours.per_second / peers.per_second:.2f}",
                *(str(i + 1), f"{ours.per_second:.0f}", f"{peers.per_second:.0f}"),
                *(f"{ours.seconds:.1f}", f"{peers.seconds:.1f}"),
                *(f"{ours.start_up:.1f}", f"{peers.start_up:.1f}"),
                *(f"{ours.cpu_s:.0f}", f"{peers.cpu_s:.0f}", f"{ours.server_cpu_s:.0f}"),
            ]
        )
    middle = [f"**{comparison.ratio:.2f}**", "median"]
    middle += [f"**{rounds.median(r):.0f}**" for r in (comparison.ours, comparison.peers)]
    rows.append([*middle, *[""] * 7])
    head = "ratio, round, facecap images/s, peers images/s, facecap s, peers s, facecap start-up s"
    head += ", peers start-up s, facecap CPU s, peers CPU s, nginx CPU s (facecap's run)"
    return table(head.split(", "), rows)


def _fetch_note(fetch: Comparison) -> str:
    tried = ", ".join(f"{n}: {speed:.0f}" for n, speed in fetch.extra["tried"].items())
    return (
        "Bodies go to tars unchanged, with their sha256, at most 2 retries. facecap: ReadRows, "
        "Download, WriteShard on Beam. img2dataset: `--disable_all_reencoding True`, "
        f"{tools.WORKERS} processes, {tools.IMG2DATASET_SHARDS} shards, {fetch.extra['threads']} "
        f"threads, the best of those tried (threads: images/s: {tried}).\n"
    )


def _line_note() -> str:
    return (
        "facecap: `facecap build`, all stages. Peers: img2dataset at 640 px "
        "(`keep_ratio_largest`, never enlarged, JPEG), then a loop over insightface's SCRFD at "
        "640 x 640 on the stored images, which does nothing more: no crops, no attributes. Their "
        f"seconds are added; img2dataset has {rounds.LINE_THREADS} threads; the loop's model is "
        "loaded before its seconds start. The ratio is against the loop as users write it, one "
        "process with ONNX Runtime's default threads; the second table has it against two "
        "processes with one thread each, too.\n"
    )


def _variants(line: Comparison) -> str:
    runs = [value for name, value in line.extra.items() if name.startswith("round ")]
    names = list(runs[0])
    return table(
        ("peers' parts", *names),
        [[f"round {i + 1}", *(f"{run[name]:.1f}" for name in names)] for i, run in enumerate(runs)],
    )


def _differences(line: Comparison) -> str:
    differences: list[Difference] = line.extra["differences"]
    kept = line.extra["faces kept"]
    text = (
        f"Faces kept (short side of at least 128 px in the original, same least score; for facecap "
        f"those that pass Crop, whatever their labels) on {line.extra['photographs']} distinct "
        f"photographs: facecap {kept['facecap']}, peers {kept['peers']}. All differences:\n"
    )
    rows = [[d.photograph, d.kept_by, str(d.face), d.reason] for d in differences]
    head = ("photograph", "kept by", "face", "the other one")
    return text + "\n" + (table(head, rows) if rows else "None.\n")


def _kernels(results: Results) -> str:
    assert results.kernels is not None
    rows = [[n, f"{bare:.2f}", f"{rest:.2f}"] for n, bare, rest in kernels.table(results.kernels)]
    text = (
        "The decoders', ONNX Runtime's and JPEG encoders' calls that the stages make, timed where "
        "they are made, on one thread of a quiet process; the rest is everything else in the stage "
        f"(median of {kernels.REPEATS} passes, ms per photograph).\n\n"
    ) + table(("stage", "bare calls, ms", "rest, ms"), rows)
    if results.line:
        ours = sorted(results.line.ours, key=lambda r: r.seconds)[len(results.line.ours) // 2]
        text += (
            f"\nAll bare calls: {kernels.bare_seconds(results.kernels) * 1e3:.1f} ms before the "
            f"builds, {(results.bare_after or results.bare) * 1e3:.1f} ms after them; the share "
            f"counts the mean. The median build had {ours.seconds * CORES:.0f} core-seconds, of "
            f"which it took {ours.cpu_s:.0f} and nginx {ours.server_cpu_s:.0f}.\n"
        )
    shares = [[name, f"{share:.1%}"] for name, share in results.parts.items()]
    text += (
        "\nProcessor time of a build after its start-up, by part (py-spy, a run of its own):\n\n"
    )
    return text + table(("part", "share"), shares)


def _memory(few: Peak, many: Peak) -> str:
    rows = [
        [
            f"**{p.bytes / 1e9:.2f} GB**",
            str(p.rows),
            ", ".join(x.split(" MiB")[0] for x in p.processes),
        ]
        for p in (few, many)
    ]
    head = ("peak of all processes", "URLs", "each process then, MiB")
    return "PSS, every 0.15 s; no torch installed; the server left out.\n\n" + table(head, rows)
