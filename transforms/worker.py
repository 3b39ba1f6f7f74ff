"""What one worker process tells the terminal and the next run: progress, the rows in flight,
and the trace of a native crash. All of it lies in the run's folder, none in the dataset.

A worker on the launcher's machine also ends when the launcher does: a killed build leaves no
orphans behind.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import gc
import json
import mmap
import os
import resource
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from facecap.transforms.same import Expected
from facecap.transforms.store import disk_errors

RUN_LOCK = "alive"
_NO_ROW = -1
_SLOTS = 64
_WRITE_EVERY_S = 0.5
_NEW_OBJECTS_PER_COLLECTION = 20_000
"""The 700 of Python 3.11 cost a tenth of the processor time of fetching, and the hundreds of
thousands of objects of the imported modules were looked through again and again (742 images/s
became 935)."""


@dataclass(frozen=True)
class Run:
    """One start of a build: its folder (None where workers are elsewhere), the folder that every
    worker holds so that nobody clears away what it is about to commit (empty where there is none),
    the launcher's process id, and what a worker elsewhere must have in common with it."""

    folder: str | None = None
    output: str = ""
    launcher: int = 0
    crashed_rows: frozenset[int] = frozenset()
    expected: Expected | None = None


class Worker:
    """This process's files in the run's folder: PID.json, PID.rows and PID.crash."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.folder = folder
        self._in_launcher = run.launcher == os.getpid()
        # Until the last worker of a killed build is gone nobody may clear its attempt away.
        self._output = hold(run.output)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("rows", "attempted", "decoded", "faces", "kept"), 0)
        stem = folder / str(os.getpid())
        self._rows_file = _sized_file(stem.with_suffix(".rows"), 8 * _SLOTS)
        self._rows = mmap.mmap(self._rows_file.fileno(), 8 * _SLOTS)
        for slot in range(_SLOTS):
            struct.pack_into("<q", self._rows, 8 * slot, _NO_ROW)
        self._slots: dict[int, int] = {}
        # A fatal signal writes its traceback here: that tells a native crash (SIGSEGV, SIGABRT,
        # ...) from a kill, which leaves the file empty.
        self._crash_file = stem.with_suffix(".crash").open("w")
        faulthandler.enable(self._crash_file)
        # A process that ends while its threads work (an engine takes a speculative copy away) may
        # abort on its way out: that is no row's fault.
        atexit.register(faulthandler.disable)
        self.write()
        self._watcher = threading.Thread(target=self._watch, name="facecap-worker", daemon=True)
        self._watcher.start()

    def mark(self, row: int | None) -> None:
        """Note the row that this thread is about to hand to native code; None when it is back."""
        thread = threading.get_ident()
        slot = self._slots.get(thread)
        if slot is None:
            with self._lock:
                slot = self._slots[thread] = len(self._slots) % _SLOTS
        struct.pack_into("<q", self._rows, 8 * slot, _NO_ROW if row is None else row)

    def count(self, **counts: int) -> None:
        """Add to the counts that the progress bar sums over the workers."""
        with self._lock:
            for name, value in counts.items():
                self._counts[name] += value

    def _watch(self) -> None:
        """Writes progress, and ends the process when the launcher no longer holds its lock."""
        while not self._stopped.wait(_WRITE_EVERY_S):
            if not self._in_launcher and not is_alive(self.folder):
                os._exit(1)
            self.write()

    def stop(self) -> None:
        self._stopped.set()
        self._watcher.join()
        self.write()
        faulthandler.disable()
        atexit.unregister(faulthandler.disable)
        self._crash_file.close()
        self._rows.close()
        self._rows_file.close()
        os.close(self._output)

    def write(self) -> None:
        with self._lock:
            data = json.dumps({"pid": os.getpid(), **self._counts})
        temporary = self.folder / f".{os.getpid()}"
        try:
            temporary.write_text(data)
            temporary.replace(self.folder / f"{os.getpid()}.json")
        except OSError:
            # The launcher has ended and taken the folder with it, or the disk is full: then the
            # next shard says so, and this thread must live to end the process with the launcher.
            temporary.unlink(missing_ok=True)


_worker: Worker | None = None
_held: dict[str, int] = {}
_collects_less = False
_start_lock = threading.Lock()


def start(run: Run) -> None:
    """Start reporting for `run` in this process; once per run, from any DoFn's setup. Raises
    the limit of open files, of which every connection takes one, as far as it goes; and leaves
    what was imported and loaded so far out of garbage collection in a process of its own."""
    global _worker, _collects_less
    _raise_file_limit()
    with _start_lock:
        if not _collects_less and run.launcher != os.getpid():
            _collects_less = True
            gc.collect()
            gc.freeze()
            gc.set_threshold(_NEW_OBJECTS_PER_COLLECTION)
        if run.folder is None:
            if run.expected is not None:
                run.expected.check()
            if run.output and run.output not in _held:
                with disk_errors(Path(run.output)):
                    _held[run.output] = hold(run.output)
            return
        folder = Path(run.folder)
        if _worker is None or _worker.folder != folder:
            with disk_errors(Path(run.output)):
                _worker = Worker(run, folder)


def hold(folder: str) -> int:
    """A shared lock on `folder`, as long as the returned descriptor is open. Some network file
    systems have none: there nobody gets the exclusive one that clears, either."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    return descriptor


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS: "unlimited" is more than it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop() -> None:
    """Stop reporting in this process: for a launcher that was its own worker."""
    global _worker
    with _start_lock:
        if _worker is not None:
            _worker.stop()
            _worker = None


def is_working() -> bool:
    """Whether this process is a worker."""
    return _worker is not None


def mark(row: int | None) -> None:
    """See Worker.mark; does nothing in a process without a run's folder."""
    if _worker is not None:
        _worker.mark(row)


def count(**counts: int) -> None:
    """See Worker.count; does nothing in a process without a run's folder."""
    if _worker is not None:
        _worker.count(**counts)


def hold_run_lock(folder: Path) -> IO[str]:
    """The launcher's side: while the returned file is open, the run is alive."""
    file = (folder / RUN_LOCK).open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_alive(folder: Path) -> bool:
    """Whether the launcher of the run in `folder` still lives."""
    try:
        with (folder / RUN_LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def crash_traces(folder: Path) -> list[Path]:
    """What faulthandler wrote of the workers of a run that a fatal signal killed."""
    return [crash for crash in folder.glob("*.crash") if crash.stat().st_size]


def rows_in_flight(folder: Path) -> set[int]:
    """The rows that crashed workers of a run had in native code; empty when none crashed."""
    rows: set[int] = set()
    for crash in crash_traces(folder):
        in_flight = crash.with_suffix(".rows")
        if in_flight.exists():
            data = in_flight.read_bytes()
            rows.update(row for (row,) in struct.iter_unpack("<q", data) if row != _NO_ROW)
    return rows


def read_reports(folder: Path) -> list[dict[str, int]]:
    """The progress of each worker of a run: its pid and its counts."""
    reports = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            reports.append(json.loads(path.read_text()))
    return reports


def _sized_file(path: Path, size: int) -> IO[bytes]:
    """Of zeros that are there: in a hole, a full disk would be SIGBUS when it is written to."""
    file = path.open("w+b")
    file.write(bytes(size))
    file.flush()
    return file
