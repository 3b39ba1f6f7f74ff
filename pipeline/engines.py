"""Which engine runs a build, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from facecap.pipeline.dataflow import DataflowEngine
from facecap.pipeline.errors import UsageError
from facecap.pipeline.execution import Engine
from facecap.pipeline.local import LocalEngine
from facecap.pipeline.portable import flink_engine, prism_engine, spark_engine
from facecap.pipeline.settings import Settings


@dataclass(frozen=True)
class Target:
    """Where the command line says that the graph runs."""

    runner: str = "local"
    spark_master: str | None = None
    flink_master: str | None = None


def local_workers(settings: Settings) -> int:
    """Worker processes of `local`: build.workers, or one per core that this process may use."""
    return settings.build.workers or len(os.sched_getaffinity(0))


def make_engine(
    target: Target, settings: Settings, output: str, shards: int, extra: Sequence[str]
) -> Engine:
    """The engine with its options checked; nothing is started. `extra` are Beam's options, given
    after `--`. Raises UsageError."""
    for flag, value, runner in (
        ("--spark-master", target.spark_master, "spark"),
        ("--flink-master", target.flink_master, "flink"),
    ):
        if value is not None and target.runner != runner:
            raise UsageError(f"{flag}: is for --runner {runner}, not {target.runner}")
    workers = settings.build.workers
    on_gpu = "cuda" in (settings.detect.provider, settings.attributes.provider)
    if target.runner == "local":
        # A language model fills a device, or a machine's memory.
        one_process = on_gpu or settings.rewrite.backend == "transformers"
        return LocalEngine(local_workers(settings), extra, one_process=one_process)
    if target.runner == "spark":
        if target.spark_master is None:
            raise UsageError("--spark-master: not given; write spark://HOST:PORT or local[*]")
        return spark_engine(target.spark_master, settings.spark, workers, shards, extra)
    if target.runner == "flink":
        return flink_engine(target.flink_master or "[local]", settings.flink, workers, extra)
    if target.runner == "prism":
        if workers is not None:
            raise UsageError("--workers: Prism starts one Python worker; leave it out")
        return prism_engine(settings.prism, extra)
    if target.runner == "dataflow":
        if workers is not None:
            raise UsageError("--workers: is for this machine; set dataflow.workers")
        provider = "cuda" if on_gpu else "cpu"
        return DataflowEngine(settings.dataflow, output, extra, provider)
    raise UsageError(f"--runner {target.runner}: unknown")
