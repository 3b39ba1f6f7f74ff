"""What a worker leaves behind: progress, the rows in flight, traces of native crashes only."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from facecap.pipeline.output import shared_lock_and_cleaning
from facecap.transforms import worker
from facecap.transforms.store import Store

PROCESS = """
import ctypes, os, sys, threading, time
from facecap.transforms import worker
folder, launcher = sys.argv[1], int(sys.argv[2])
worker.start(worker.Run(folder, folder, launcher))
{code}
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[worker.Run]:
    """A live run in a folder of its own; this process is launcher and worker."""
    with worker.hold_run_lock(tmp_path):
        yield worker.Run(str(tmp_path), str(tmp_path), os.getpid())
    worker.stop()


def start_process(run: worker.Run, code: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", PROCESS.format(code=code), str(run.folder), "0"]
    return subprocess.Popen(arguments, stderr=subprocess.DEVNULL)


def test_a_run_is_alive_while_its_launcher_holds_the_lock(tmp_path: Path) -> None:
    assert not worker.is_alive(tmp_path)
    with worker.hold_run_lock(tmp_path):
        assert worker.is_alive(tmp_path)
    assert not worker.is_alive(tmp_path)


def test_counts_of_all_threads_reach_the_report(run: worker.Run, tmp_path: Path) -> None:
    worker.start(run)
    worker.start(run)

    def add() -> None:
        for _ in range(500):
            worker.count(rows=2, faces=1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.stop()
    nothing = {"attempted": 0, "decoded": 0, "kept": 0}
    expected = {"pid": os.getpid(), "rows": 4000, "faces": 2000, **nothing}
    assert worker.read_reports(tmp_path) == [expected]


def test_without_a_folder_nothing_is_written_or_marked() -> None:
    worker.start(worker.Run())
    assert not worker.is_working()
    worker.mark(3)
    worker.count(rows=1)
    worker.stop()


def test_a_worker_that_ends_well_leaves_no_row_in_flight(run: worker.Run, tmp_path: Path) -> None:
    worker.start(run)
    assert worker.is_working()
    worker.mark(3)
    worker.mark(None)
    worker.stop()
    assert not worker.is_working()
    assert worker.crash_traces(tmp_path) == [] and worker.rows_in_flight(tmp_path) == set()


@pytest.mark.parametrize(
    ("death", "rows"),
    [
        ("ctypes.string_at(0)", {7}),
        ("os.abort()", {7}),
        ("os.kill(os.getpid(), 9)", set()),
        ("os.kill(os.getpid(), 15)", set()),
        ("os._exit(1)", set()),
        ("worker.mark(None); os.abort()", set()),
    ],
)
def test_only_a_native_crash_tells_the_row_it_was_at(
    run: worker.Run, tmp_path: Path, death: str, rows: set[int]
) -> None:
    assert start_process(run, f"worker.mark(6); worker.mark(7); {death}").wait(timeout=30) != 0
    assert worker.rows_in_flight(tmp_path) == rows
    assert bool(worker.crash_traces(tmp_path)) == ("abort" in death or "string_at" in death)


def test_every_thread_has_a_row_in_flight_of_its_own(run: worker.Run, tmp_path: Path) -> None:
    code = """
t = threading.Thread(target=lambda: (worker.mark(11), time.sleep(30)), daemon=True)
t.start(); time.sleep(0.2); worker.mark(12); os.abort()
"""
    start_process(run, code).wait(timeout=30)
    assert worker.rows_in_flight(tmp_path) == {11, 12}


def test_a_worker_ends_when_its_launcher_does(tmp_path: Path) -> None:
    lock = worker.hold_run_lock(tmp_path)
    process = start_process(worker.Run(str(tmp_path)), "time.sleep(60)")
    deadline = time.monotonic() + 20
    while not worker.read_reports(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.2)
    assert process.poll() is None, "it lives as long as the launcher"
    lock.close()
    assert process.wait(timeout=5) == 1


def test_a_worker_holds_the_output_until_it_is_gone(run: worker.Run, tmp_path: Path) -> None:
    process = start_process(run, "time.sleep(60)")
    deadline = time.monotonic() + 20
    while not worker.read_reports(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    store = Store(tmp_path)
    store.path("build.json").touch()
    with store.write("_attempts/000000-live/tar") as file:
        file.write(b"x")
    with shared_lock_and_cleaning(store):
        assert store.list("_attempts") == ["000000-live"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with shared_lock_and_cleaning(store):
        assert store.list("_attempts") == []


def test_a_worker_elsewhere_holds_the_output_until_it_is_gone(tmp_path: Path) -> None:
    """It has no folder of a run: all that others can see of it is the lock."""
    code = (
        "import sys, time; from facecap.transforms import worker; "
        "run = worker.Run(None, sys.argv[1]); worker.start(run); worker.start(run); "
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert not can_have_alone(tmp_path)
    os.close(worker.hold(str(tmp_path)))  # others may work at it, too
    process.kill()
    process.communicate()
    assert can_have_alone(tmp_path)
    assert list(tmp_path.iterdir()) == [], "it writes nothing there"


def test_a_hold_is_as_long_as_its_descriptor(tmp_path: Path) -> None:
    first, second = worker.hold(str(tmp_path)), worker.hold(str(tmp_path))
    os.close(first)
    assert not can_have_alone(tmp_path)
    os.close(second)
    assert can_have_alone(tmp_path)
    alone = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(alone, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        worker.hold(str(tmp_path))
    os.close(alone)
    with pytest.raises(FileNotFoundError):
        worker.hold(str(tmp_path / "nosuch"))


def can_have_alone(folder: Path) -> bool:
    """Whether a command that clears could have the folder now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_a_run_folder_that_is_taken_away_is_no_error(run: worker.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    reporter = worker.Worker(run, folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    reporter.mark(3)
    reporter.stop()
    assert worker.read_reports(folder) == []


def test_a_worker_has_all_the_open_files_it_may_have() -> None:
    code = (
        "import resource; from facecap.transforms import worker; files = resource.RLIMIT_NOFILE; "
        "hard = min(resource.getrlimit(files)[1], 4096); "
        "resource.setrlimit(files, (512, hard)); "
        "worker.start(worker.Run()); print(resource.getrlimit(files) == (hard, hard))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(("launcher", "frozen"), [("0", True), ("os.getpid()", False)])
def test_a_process_of_its_own_collects_garbage_less_often(launcher: str, frozen: bool) -> None:
    """A launcher may be somebody's own program: its collector is left alone."""
    code = f"""
import gc, os
from facecap.transforms import worker
before = gc.get_threshold()
worker.start(worker.Run(launcher={launcher}))
once = gc.get_freeze_count()
kept = [[] for _ in range(1000)]
worker.start(worker.Run(launcher={launcher}))
print(once > 0, gc.get_freeze_count() == once, gc.get_threshold() > before)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert said == [str(frozen), "True", str(frozen)]
