"""`facecap launch --plan`: what would be started, and what it would take. Nothing is started."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline import dataflow
from facecap.pipeline.dataflow import DataflowOptions
from facecap.pipeline.machines import vcpus
from facecap.pipeline.settings import Settings

HOST_SHARE = 0.01
"""The plan says what a host with this share of the URLs takes at least."""

_HOUR_S = 3600.0
_LINE_DETECTOR = "scrfd-500m"
Range = tuple[float, float]


@dataclass(frozen=True)
class Fleet:
    """The machines of a build, at most: `cores` and `processes` are per machine, `threads` per
    worker process; with `gpu` each machine has one. `where` is the engine's address, or project and
    region."""

    runner: str
    where: str
    machines: int
    cores: float
    processes: int
    threads: int = 1
    gpu: bool = False
    machine: str = ""
    image: str = ""
    beam_options: tuple[str, ...] = ()

    @property
    def all_processes(self) -> int:
        return self.machines * self.processes


@dataclass(frozen=True)
class Work:
    """What there is to do; `rows` is None where they are counted while they are read, which is so
    for tars, of which nothing is downloaded."""

    rows: int | None
    shards: int
    output: str
    downloads: bool = True


@dataclass(frozen=True)
class Estimate:
    """From the least to the most: hours of one core, of one machine and of the whole fleet, and
    the bytes downloaded. `source` says what it was measured on."""

    core_hours: Range
    machine_hours: Range
    hours: Range
    bytes: Range
    source: str


def local_fleet(workers: int) -> Fleet:
    """Worker processes on this machine, a core each."""
    return Fleet("local", "this machine", 1, workers, workers)


def dataflow_fleet(chosen: DataflowOptions, provider: str, options: PipelineOptions) -> Fleet:
    """The machines that `options` ask for, which dataflow_options made of the other two."""
    uses_gpu = provider == "cuda"
    kind = dataflow.machine_type(chosen, uses_gpu) or ""
    given = options.get_all_options(drop_default=True)
    return Fleet(
        runner="dataflow",
        where=f"project {chosen.project}, {chosen.region}",
        machines=chosen.max_workers,
        cores=vcpus(kind) or 1,
        processes=dataflow.processes(chosen, uses_gpu),
        threads=dataflow.threads(chosen, uses_gpu),
        gpu=uses_gpu,
        machine=f"{kind}, {chosen.gpu_type or 'accelerator'}" if uses_gpu else kind,
        image=chosen.image or "",
        beam_options=tuple(f"--{name}={value}" for name, value in sorted(given.items())),
    )


def estimate(
    rows: int, fleet: Fleet, detector: str, images_per_second_per_core: float | None = None
) -> Estimate | None:
    """What `rows` URLs take; None where `detector` was not measured and no rate is given.

    The least: as many rows fail as in the paper, no image has a face, and a GPU takes all of the
    detector's time. The most: every row is a large photograph with faces, and a GPU takes none.
    """
    measured = _measured()
    low_share, high_share = measured["fetched_share"]
    if images_per_second_per_core:
        seconds = (rows / images_per_second_per_core,) * 2
        source = f"{images_per_second_per_core:g} images/s per core, as given"
    elif detector in measured["detector_ms"]:
        its = measured["detector_ms"][detector]
        most = measured["line_ms"] - measured["detector_ms"][_LINE_DETECTOR] + its
        least = most - measured["faces_ms"] - (its if fleet.gpu else 0.0)
        failed = measured["failed_ms"]
        seconds = (
            rows * (low_share * least + (1 - low_share) * failed) / 1000,
            rows * (high_share * most + (1 - high_share) * failed) / 1000,
        )
        source = measured["measured_on"]
    else:
        return None
    core_hours = (seconds[0] / _HOUR_S, seconds[1] / _HOUR_S)
    machine_hours = (core_hours[0] / fleet.cores, core_hours[1] / fleet.cores)
    body = measured["bytes_per_image"]
    return Estimate(
        core_hours=core_hours,
        machine_hours=machine_hours,
        hours=(machine_hours[0] / fleet.machines, machine_hours[1] / fleet.machines),
        bytes=(rows * low_share * body, rows * high_share * body),
        source=source,
    )


def plan_text(
    fleet: Fleet, work: Work, settings: Settings, images_per_second_per_core: float | None = None
) -> str:
    """What would be started and what it would take, as lines for the terminal."""
    lines = [f"Would start on {fleet.runner} ({fleet.where}); nothing is started now.", ""]
    lines += [_line(name, text) for name, text in _started(fleet, work, settings)]
    if fleet.beam_options:
        lines += [_line("Beam options", fleet.beam_options[0])]
        lines += [_line("", option) for option in fleet.beam_options[1:]]
    lines += ["", *_estimated(fleet, work, settings, images_per_second_per_core)]
    return "\n".join(lines) + "\n"


def _started(fleet: Fleet, work: Work, settings: Settings) -> list[tuple[str, str]]:
    rows = "rows counted while they are read" if work.rows is None else f"{work.rows:,} rows"
    at_once = fleet.all_processes * fleet.threads
    shards = f"{work.shards:,}"
    if work.shards < at_once:
        shards += f"; too few for {at_once:,} threads: the rest would idle"
    machine = f" ({fleet.machine})" if fleet.machine else ""
    gpu = ", 1 GPU" if fleet.gpu else ""
    told = [
        ("input", rows),
        ("shards", shards),
        ("output", work.output),
        (
            "machines",
            f"{fleet.machines:,} at most{machine}, each {fleet.cores:g} cores{gpu}",
        ),
        (
            "workers",
            f"{fleet.all_processes:,} processes, threads in each: {fleet.threads}",
        ),
    ]
    if fleet.image:
        told.append(("image", fleet.image))
    if work.downloads:
        limits, processes = settings.download, fleet.all_processes
        told += [
            ("per host", f"{_times(limits.per_host, processes)} requests at a time to one host"),
            ("all hosts", f"{_times(limits.concurrency, processes)} requests at a time"),
        ]
        if limits.respect_robots:
            text = f"asked for up to {processes:,} times per host: each process has its own cache"
            told.append(("robots.txt", text))
    if settings.rewrite.backend == "openai":
        rewrite = settings.rewrite
        text = f"{_times(rewrite.concurrency, fleet.all_processes)} requests at a time"
        told.append(("rewriting", f"{text} to {rewrite.base_url}; not in the estimate"))
    return told


def _estimated(
    fleet: Fleet, work: Work, settings: Settings, images_per_second_per_core: float | None
) -> list[str]:
    remedy = (
        "build a sample with --limit and give its rate by --images-per-second-per-core "
        "(finished rows / seconds / cores)"
    )
    if work.rows is None:
        return ["No estimate: the tars' rows are not counted yet."]
    found = estimate(work.rows, fleet, settings.detect.model, images_per_second_per_core)
    if found is None:
        return [f"No estimate: {settings.detect.model} was not measured; {remedy}."]
    lines = [
        f"Estimate, from {found.source}:",
        _line("core-hours", _span(found.core_hours)),
        _line("worker-hours", f"{_span(found.machine_hours)} (machines of {fleet.cores:g} cores)"),
    ]
    if fleet.gpu:
        text = f"{_span(found.machine_hours)}; no build on a GPU was measured"
        lines.append(_line("GPU-hours", text))
    lines.append(_line("at the least", f"{_span(found.hours)} h with every machine at work"))
    if work.downloads:
        unit, size = ("TB", 1e12) if found.bytes[1] >= 1e12 else ("GB", 1e9)
        downloaded = (found.bytes[0] / size, found.bytes[1] / size)
        limits, processes = settings.download, fleet.all_processes
        every = work.rows / (limits.concurrency * processes) / _HOUR_S
        one = HOST_SHARE * work.rows / (limits.per_host * processes) / _HOUR_S
        lines += [
            _line("network", f"{_span(downloaded)} {unit} downloaded"),
            _line(
                "limits",
                f"where a request takes 1 s: {_hours(every)} h for all, "
                f"{_hours(one)} h for a host with {HOST_SHARE:.0%} of the URLs",
            ),
        ]
    if not images_per_second_per_core:
        lines.append(f"Your images differ: {remedy}.")
    return lines


def _line(name: str, text: str) -> str:
    return f"  {name:<14}{text}".rstrip()


def _times(limit: int, processes: int) -> str:
    return f"{limit:,} x {processes:,} processes = {limit * processes:,}"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _span(span: Range) -> str:
    low, high = map(_hours, span)
    return low if low == high else f"{low} to {high}"


def _measured() -> dict[str, Any]:
    return dict(yaml.safe_load(files(__package__).joinpath("measured.yaml").read_text("utf-8")))
