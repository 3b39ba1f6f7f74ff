"""Watching a run: workers that die are noticed, commits of this run are counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facecap.pipeline import watch
from facecap.pipeline.errors import BuildFailed
from facecap.pipeline.terminal import Progress
from facecap.pipeline.watch import WatchCommits, WatchWorkers
from facecap.schemas.shard import commit_file
from facecap.transforms import worker
from facecap.transforms.commit import read_record
from facecap.transforms.store import Store

WORKER = """
import sys, time
from facecap.transforms import worker
worker.start(worker.Run(sys.argv[1], sys.argv[1]))
worker.mark(41)
worker.count(rows={rows}, attempted={rows}, kept=1)
worker._worker.write()
{end}
"""
"""A worker process that has counted some rows, then comes to its `end`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder; its launcher, this process, lives."""
    path = tmp_path / "run"
    path.mkdir()
    return path


def run_worker(folder: Path, end: str, rows: int = 3) -> None:
    code = WORKER.format(rows=rows, end=end)
    with worker.hold_run_lock(folder):
        subprocess.run([sys.executable, "-c", code, folder], stderr=subprocess.DEVNULL)


def test_the_progress_is_the_sum_over_living_workers(folder: Path) -> None:
    looked = WatchWorkers(folder)
    assert looked.look() == Progress()
    with worker.hold_run_lock(folder):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER.format(rows=n, end="time.sleep(600)"), folder]
            )
            for n in (3, 4)
        ]
        try:
            deadline = time.monotonic() + 30
            while (progress := looked.look()).rows < 7:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert (progress.rows, progress.attempted, progress.kept) == (7, 7, 2)


def test_a_killed_worker_ends_the_build_after_a_grace(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_worker(folder, "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(watch, "_LOST_WORKER_GRACE_S", 0.3)
    looked = WatchWorkers(folder)
    assert looked.look().rows == 3, "the graph may say better why: it gets some time"
    time.sleep(0.4)
    with pytest.raises(BuildFailed, match=r"worker process was killed .* with fewer --workers"):
        looked.look()


def test_an_engine_that_replaces_workers_may_lose_some(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_worker(folder, "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(watch, "_LOST_WORKER_GRACE_S", 0.0)
    looked = WatchWorkers(folder, replaces=True)
    for _ in range(3):
        assert looked.look().rows == 3
        time.sleep(0.01)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_native_crash_ends_every_build_at_once(folder: Path, replaces: bool) -> None:
    run_worker(folder, "import ctypes; ctypes.string_at(0)")
    with pytest.raises(BuildFailed, match=r"crashed in native code at row 41; .* decode_crashed"):
        WatchWorkers(folder, replaces=replaces).look()


@pytest.fixture
def uncommitted(dataset: Store, monkeypatch: pytest.MonkeyPatch) -> dict[int, bytes]:
    """The records of the second and third shard, which are yet to be committed."""
    monkeypatch.setattr(watch, "_LOOK_AT_COMMITS_EVERY_S", 0.0)
    names = {number: commit_file(number) for number in (1, 2)}
    taken = {number: dataset.read(name) for number, name in names.items()}
    for name in names.values():
        dataset.path(name).unlink()
    return taken


def test_commits_of_this_run_count_and_those_before_do_not(
    dataset: Store, uncommitted: dict[int, bytes]
) -> None:
    looked = WatchCommits(dataset)
    assert looked.look() == Progress()
    dataset.create(commit_file(2), uncommitted[2])
    first, record = looked.look(), read_record(dataset, 2)
    assert record is not None and first.rows == record.counts.rows == 5
    assert (first.faces, first.kept) == (record.counts.faces, record.counts.faces_kept)
    assert looked.look() == first, "once"
    dataset.create(commit_file(1), uncommitted[1])
    assert looked.look().rows == 15


def test_foreign_files_among_the_commits_are_ignored(
    dataset: Store, uncommitted: dict[int, bytes]
) -> None:
    looked = WatchCommits(dataset)
    copies = ("000001 (copy).json", "000001", "1.json", "0000001.json", "notes.txt", "²²²²²².json")
    for name in (*copies, commit_file(1).partition("/")[2]):
        dataset.create(f"commits/{name}", uncommitted[1])
    assert looked.look().rows == 10
    assert looked.look().rows == 10


def test_an_output_without_commits_has_no_progress(tmp_path: Path) -> None:
    assert WatchCommits(Store(tmp_path)).look() == Progress()


def test_a_damaged_record_is_named(dataset: Store, uncommitted: dict[int, bytes]) -> None:
    looked = WatchCommits(dataset)
    record = json.loads(uncommitted[1])
    dataset.create(commit_file(2), json.dumps(record).encode())
    with pytest.raises(BuildFailed, match=r"000002\.json: is the record of shard 1; restore it"):
        looked.look()
