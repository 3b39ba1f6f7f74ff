"""A build that is stopped takes its job with it, whenever it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from facecap.pipeline import watch
from facecap.pipeline.errors import BuildFailed
from facecap.pipeline.execution import Interrupted, execute
from facecap.transforms.store import DiskFailed, Store


class Job(PipelineRunner):
    """An engine elsewhere whose submission takes a while, and whose job never ends by itself."""

    submission_s = 0.0
    entered = threading.Event()
    jobs: ClassVar[list[Job]] = []

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def run_pipeline(self, pipeline: Any, options: Any) -> Job:
        self.entered.set()
        time.sleep(self.submission_s)
        self.jobs.append(self)
        return self

    def wait_until_finish(self) -> None:
        self.cancelled.wait(60)
        raise RuntimeError("the job was cancelled")

    def cancel(self) -> None:
        self.cancelled.set()


class Elsewhere:
    """The engine that gives the graph to `Job`."""

    workers_here = False
    replaces_workers = True

    def __init__(self) -> None:
        self.runner: Any = Job()

    @contextlib.contextmanager
    def started(self, log: Path) -> Iterator[PipelineOptions]:
        yield PipelineOptions([])


@pytest.fixture(autouse=True)
def no_jobs() -> None:
    Job.jobs.clear()
    Job.entered.clear()


def run(store: Store) -> None:
    def add(pipeline: beam.Pipeline, _: object) -> object:
        return pipeline | beam.Create([1])

    execute(Elsewhere(), add, store, frozenset(), None, 0.2, lambda _: None)


@pytest.mark.parametrize("submission_s", [0.0, 3.0], ids=["running", "being submitted"])
def test_ctrl_c_cancels_the_job(
    submission_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "submission_s", submission_s)

    def interrupt() -> None:
        Job.entered.wait(60)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted):
        run(Store(tmp_path))
    assert [job.cancelled.is_set() for job in Job.jobs] == [True]


def test_a_bucket_that_cannot_be_listed_for_a_moment_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LOOK_AT_COMMITS_EVERY_S", 0.1)
    store, looks = Store(tmp_path), []

    def failing(folder: str) -> list[str]:
        looks.append(folder)
        raise DiskFailed("throttled")

    seen = watch.WatchCommits(store)
    monkeypatch.setattr(store, "list", failing)
    for _ in range(3):
        assert seen.look().rows == 0
        time.sleep(0.12)
    assert len(looks) == 3
    monkeypatch.setattr(watch, "_BLIND_S", 0.0)
    with pytest.raises(DiskFailed, match="throttled"):
        seen.look()


def test_whatever_ends_the_watching_cancels_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LOOK_AT_COMMITS_EVERY_S", 0.1)
    store = Store(tmp_path)
    (tmp_path / "commits").mkdir()
    threading.Timer(1.0, lambda: (tmp_path / "commits/000000.json").write_text("{}")).start()
    with pytest.raises(BuildFailed, match=r"commits/000000\.json: not a commit record"):
        run(store)
    assert [job.cancelled.is_set() for job in Job.jobs] == [True]
