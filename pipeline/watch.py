"""How far a build is: from the files of workers on this machine, or from the shards committed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from facecap.pipeline.errors import BuildFailed
from facecap.pipeline.terminal import Progress
from facecap.schemas.commit import Counts
from facecap.schemas.outcomes import Stage
from facecap.schemas.shard import commit_file, commit_generation
from facecap.transforms import worker
from facecap.transforms.commit import read_generation
from facecap.transforms.store import DiskFailed, Store

_LOST_WORKER_GRACE_S = 10.0
_LOOK_AT_COMMITS_EVERY_S = 5.0
_BLIND_S = 900.0


class Watch(Protocol):
    """Looks after a run."""

    def look(self) -> Progress:
        """The progress of this run. Raises BuildFailed when it cannot go on."""


class WatchWorkers:
    """Reads the files that workers on this machine write; notices those that died. An engine that
    `replaces` workers may lose some, but none by a native crash: its row would crash the next."""

    def __init__(self, folder: Path, *, replaces: bool = False) -> None:
        self._folder = folder
        self._replaces = replaces
        self._lost_since: float | None = None
        self._died = False

    @contextlib.contextmanager
    def dead_subprocesses(self) -> Iterator[None]:
        """Notice workers that die before they report. Beam itself would wait for them for ever:
        all that it does is to raise in the thread that waits for the process."""
        before = threading.excepthook

        def hook(failed: threading.ExceptHookArgs) -> None:
            self._died |= failed.thread is not None and failed.thread.name == "run_worker"
            before(failed)

        threading.excepthook = hook
        try:
            yield
        finally:
            threading.excepthook = before

    def look(self) -> Progress:
        """The sum over all workers of this run. Raises BuildFailed when one died."""
        reports = worker.read_reports(self._folder)
        if worker.crash_traces(self._folder):
            rows = ", ".join(map(str, sorted(worker.rows_in_flight(self._folder))))
            raise BuildFailed(
                f"a worker crashed in native code{rows and f' at row {rows}'}; give the same "
                "command to continue: a row that crashes twice is left out as decode_crashed"
            )
        alive = self._replaces or all(_is_running(int(r["pid"])) for r in reports)
        if not self._died and alive:
            self._lost_since = None
        else:
            self._lost_since = self._lost_since or time.monotonic()
            if time.monotonic() - self._lost_since > _LOST_WORKER_GRACE_S:
                raise BuildFailed(
                    "a worker process was killed (out of memory?); give the same command to "
                    "continue, with fewer --workers if memory is short"
                )
        return Progress.sum(reports)


class WatchCommits:
    """Reads the commit records as they appear: all that can be seen of workers elsewhere. Those
    that were there before are no progress of this run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = set(store.list("commits"))
        self._total = Counts()
        self._next = 0.0
        self._seen_at = time.monotonic()

    def look(self) -> Progress:
        """The sum over the shards committed since, as last seen. Raises DiskFailed when they
        could not be read for _BLIND_S: a job of hours shall not end for one lost listing; and
        BuildFailed when one is damaged."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOOK_AT_COMMITS_EVERY_S
            try:
                self._read()
                self._seen_at = now
            except DiskFailed:
                if now - self._seen_at > _BLIND_S:
                    raise
        total = self._total
        return Progress(
            rows=total.rows,
            attempted=total.rows_after(Stage.READ),
            decoded=total.rows_after(Stage.DECODE),
            faces=total.faces,
            kept=total.faces_kept,
        )

    def _read(self) -> None:
        for name in self._store.list("commits"):
            place = commit_generation(name)
            if name in self._seen or place is None:
                continue
            if commit_file(*place) != f"commits/{name}":
                continue  # somebody's copy: its shard would count twice
            try:
                record = read_generation(self._store, *place)
            except ValueError as error:
                raise BuildFailed(
                    f"{error}; restore it, or delete it, and give the same command"
                ) from None
            if record is not None:
                self._seen.add(name)
                self._total = Counts.total([self._total, record.counts])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
