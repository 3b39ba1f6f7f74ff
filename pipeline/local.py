"""The graph on this machine: Beam's FnApiRunner beside the main thread, which keeps the terminal,
watches the workers and stops the build in order."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline.errors import BuildFailed, UsageError
from facecap.pipeline.output import LOGS, PROGRESS
from facecap.pipeline.terminal import Progress
from facecap.transforms import worker
from facecap.transforms.store import DiskFailed, Store

ATTEMPTED_BEFORE_JUDGING = 2_000
"""`build.min_success_rate` is looked at only after this many rows."""

_POLL_S = 0.25
_LOST_WORKER_GRACE_S = 10.0
_LOG_GRACE_S = 1.0
_COPY = """
import contextlib, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of the input is the end
while data := os.read(0, 1 << 16):
    with contextlib.suppress(OSError):
        os.write(1, data)
"""

AddGraph = Callable[[beam.Pipeline, worker.Run], object]


class Interrupted(Exception):
    """Ctrl-C, or a scheduler's SIGTERM."""


class SuccessRateTooLow(Exception):
    """The share of rows fetched and decoded is under build.min_success_rate."""


def run_locally(
    add_graph: AddGraph,
    options: PipelineOptions,
    store: Store,
    crashed_rows: frozenset[int],
    min_success_rate: float,
    show: Callable[[Progress], None],
) -> None:
    """Run the graph to its end; `show` is given the progress of this run four times a second.

    Raises Interrupted and SuccessRateTooLow when it was stopped, BuildFailed when a worker died
    or the graph failed. Committed shards stay in every case.
    """
    with _run_folder(store) as folder:
        run = worker.Run(str(folder), str(store.root), os.getpid(), crashed_rows)
        graph = _GraphThread(add_graph, options, run)
        watch = _Watch(folder)
        with (
            _one_interrupt(),
            watch.dead_subprocesses(),
            _stderr_to(store.path(LOGS) / f"{folder.name}.log"),
        ):
            graph.start()
            try:
                while graph.is_alive():
                    graph.join(_POLL_S)
                    progress = watch.look()
                    show(progress)
                    low = too_low(progress.attempted, progress.decoded, min_success_rate)
                    if low:
                        raise SuccessRateTooLow(low)
            except KeyboardInterrupt:
                raise Interrupted from None
            except OSError as error:
                # The workers' progress files cannot be read.
                raise BuildFailed(f"{error}; mend that and give the same command") from error
        show(watch.look())
    if graph.error is not None:
        raise BuildFailed(_in_words(graph.error))


def too_low(attempted: int, succeeded: int, minimum: float) -> str | None:
    """What to say when too few of the rows attempted (those not dropped when they were read) were
    fetched and decoded, None when enough were."""
    if attempted < ATTEMPTED_BEFORE_JUDGING or succeeded >= minimum * attempted:
        return None
    return (
        f"only {succeeded} of {attempted} rows ({succeeded / attempted:.1%}) could be fetched and "
        f"decoded, under build.min_success_rate={minimum:g}; see the funnel for the reasons"
    )


class _GraphThread(threading.Thread):
    """Runs the graph beside the main thread, which keeps the terminal and Ctrl-C.

    A build that is stopped leaves it running: worker processes end by themselves when the run's
    lock goes; threads of this process cannot be ended, so the process has to end soon. Until then
    a worker in this process holds the output folder, for it may be about to commit.
    """

    def __init__(self, add_graph: AddGraph, options: PipelineOptions, run: worker.Run) -> None:
        super().__init__(name="facecap-graph", daemon=True)
        self._add_graph, self._options, self._run = add_graph, options, run
        self.error: Exception | None = None

    def run(self) -> None:
        # Threads and processes started from here inherit the mask: Ctrl-C reaches the main
        # thread alone, which then ends the build in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with beam.Pipeline(runner="FnApiRunner", options=self._options) as pipeline:
                self._add_graph(pipeline, self._run)
        except Exception as error:
            logging.getLogger("facecap").error("the graph failed", exc_info=error)
            self.error = error
        finally:
            worker.stop()


def local_options(workers: int, extra: Sequence[str]) -> PipelineOptions:
    """Options for Beam's FnApiRunner with this many worker processes (1: in this process).

    Raises UsageError on an option that Beam does not know, or a value that it cannot use.
    """
    flags = [f"--direct_num_workers={workers}"]
    flags.append(f"--direct_running_mode={'multi_processing' if workers > 1 else 'in_memory'}")
    options = PipelineOptions([*flags, *extra])
    options.get_all_options(add_extra_args_fn=lambda parser: _refuse_unknown(parser, extra))
    return options


def _refuse_unknown(parser: argparse.ArgumentParser, extra: Sequence[str]) -> None:
    def error(message: str) -> NoReturn:
        raise UsageError(f"Beam option: {message}")

    parser.error = error  # type: ignore[method-assign]
    _, unknown = parser.parse_known_args(extra)
    if unknown and unknown[0].startswith("-"):
        raise UsageError(f"{unknown[0]}: Beam knows no such option")
    if unknown:
        # Most likely what the shell made of an unquoted glob.
        raise UsageError(f"{unknown[0]}: not expected here; quote a glob given to --input")


class _Watch:
    """Reads the workers' progress files; notices workers that died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        if not self._died and all(_is_running(int(r["pid"])) for r in reports):
            self._lost_since = None
        else:
            self._lost_since = self._lost_since or time.monotonic()
            if time.monotonic() - self._lost_since > _LOST_WORKER_GRACE_S:
                raise BuildFailed(
                    "a worker process was killed (out of memory?); give the same command to "
                    "continue, with fewer --workers if memory is short"
                )
        return Progress.sum(reports)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _run_folder(store: Store) -> Iterator[Path]:
    """A folder for this run's progress files, locked while the run is alive."""
    folder = store.path(PROGRESS) / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    held = worker.hold_run_lock(folder)
    try:
        yield folder
    finally:
        held.close()


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """SIGTERM (a scheduler's stop) ends the build as Ctrl-C does; once one of them came, more of
    them change nothing, for stopping takes some seconds and people press again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        for stop in before:
            signal.signal(stop, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for stop in before:
        signal.signal(stop, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            for stop, handler in before.items():
                signal.signal(stop, handler)


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Send this process's and its workers' standard error to a file: Beam's own messages
    would drown the progress bar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a pipe: where writing to standard error fails, as to a file on a full disk, Beam
    # never tells what went wrong, and the build would wait for ever.
    stays = False
    with contextlib.ExitStack() as stack:
        kept = os.dup(2)
        stack.callback(os.close, kept)
        copier = _start_copier(path)
        with copier.stdin as writing:  # type: ignore[union-attr]
            os.dup2(writing.fileno(), 2)
        try:
            yield
        except (Interrupted, SuccessRateTooLow):
            stays = True  # what still runs until the process ends would write over the last words
            raise
        finally:
            if not stays:
                os.dup2(kept, 2)
                with contextlib.suppress(subprocess.TimeoutExpired):  # a worker still writes
                    copier.wait(_LOG_GRACE_S)


def _start_copier(path: Path) -> subprocess.Popen[bytes]:
    """A process that appends its standard input to `path` until nobody can write to it any more.
    A thread of this one would not do: it ends with an abort() that has just said why, and waits
    for native code that writes more than a pipe holds while it keeps the interpreter's lock."""
    with path.open("ab", buffering=0) as log:
        # In a session of its own, for Ctrl-C is not meant for it.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _COPY],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _in_words(error: BaseException) -> str:
    """What the graph failed for: the line of a Beam traceback that says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "no message"
    for line in [f"{type(error).__name__}: {last}", *lines]:
        # Under its type's name, with the step appended, as the runner hands exceptions on.
        _, found, message = line.partition(f"{DiskFailed.__name__}: ")
        if found:
            return message.partition(" [while running")[0]
    return f"{type(error).__name__}: {last}"
