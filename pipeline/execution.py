"""Runs the graph on an engine, beside the main thread, which keeps the terminal, watches the
workers and stops the build in order."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline.build_log import stderr_to
from facecap.pipeline.errors import BuildFailed
from facecap.pipeline.output import LOGS, PROGRESS
from facecap.pipeline.terminal import Progress
from facecap.pipeline.watch import WatchCommits, WatchWorkers
from facecap.transforms import worker
from facecap.transforms.rewrite.chat_errors import ServerRefuses
from facecap.transforms.rewrite.engine import Unanswered
from facecap.transforms.rewrite.local_model import LocalModelError
from facecap.transforms.same import Expected
from facecap.transforms.store import DiskFailed, Store

ATTEMPTED_BEFORE_JUDGING = 2_000
"""`build.min_success_rate` is looked at only after this many rows."""

_IN_WORDS = (DiskFailed, LocalModelError, ServerRefuses, Unanswered)
_SAID_IN_WORDS = re.compile(f"(?:{'|'.join(error.__name__ for error in _IN_WORDS)}): ")
"""Errors of a stage whose message is for whoever launched: what to mend."""

_POLL_S = 0.25
_CANCEL_S = 120.0
log = logging.getLogger("facecap")
AddGraph = Callable[[beam.Pipeline, worker.Run], object]


class Interrupted(Exception):
    """Ctrl-C, or a scheduler's SIGTERM."""


class SuccessRateTooLow(Exception):
    """The share of rows fetched and decoded is under build.min_success_rate."""


class Engine(Protocol):
    """What runs the graph: one of pipeline/local.py, portable.py and dataflow.py."""

    @property
    def runner(self) -> str:
        """Beam's name of it."""

    @property
    def workers_here(self) -> bool:
        """Whether all workers are processes of this machine."""

    @property
    def replaces_workers(self) -> bool:
        """Whether the engine goes on when a worker is lost."""

    def started(self, log: Path) -> AbstractContextManager[PipelineOptions]:
        """Start what has to run beside the graph, its output in `log`; end it on leaving."""


def execute(
    engine: Engine,
    add_graph: AddGraph,
    store: Store,
    crashed_rows: frozenset[int],
    expected: Expected | None,
    min_success_rate: float,
    show: Callable[[Progress], None],
) -> None:
    """Run the graph to its end; `show` is given the progress of this run four times a second.
    Workers elsewhere must be as `expected`.

    Raises Interrupted and SuccessRateTooLow when it was stopped, BuildFailed when a worker died
    or the graph failed. Committed shards stay in every case.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_run_folder(store))
        watch: WatchWorkers | WatchCommits
        if engine.workers_here:
            run = worker.Run(str(folder), str(store.root), os.getpid(), crashed_rows)
            watch = WatchWorkers(folder, replaces=engine.replaces_workers)
            stack.enter_context(watch.dead_subprocesses())
        else:
            held = "" if store.is_remote else str(store.root)
            run = worker.Run(None, held, os.getpid(), crashed_rows, expected)
            watch = WatchCommits(store)
        log_file = store.path(LOGS) / f"{folder.name}.log"
        stack.enter_context(_one_interrupt())
        stack.enter_context(stderr_to(log_file, (Interrupted, SuccessRateTooLow)))
        try:
            options = stack.enter_context(engine.started(log_file))
            graph = _GraphThread(engine, options, add_graph, run)
            graph.start()
            try:
                while not graph.ended.wait(_POLL_S):
                    progress = watch.look()
                    show(progress)
                    low = too_low(progress.attempted, progress.decoded, min_success_rate)
                    if low:
                        raise SuccessRateTooLow(low)
            finally:
                if not graph.ended.is_set():
                    graph.cancel()
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

    def __init__(
        self, engine: Engine, options: PipelineOptions, add_graph: AddGraph, run: worker.Run
    ) -> None:
        super().__init__(name="facecap-graph", daemon=True)
        self._engine, self._options = engine, options
        self._add_graph, self._run = add_graph, run
        # Not `is_alive`: a join that Ctrl-C interrupts marks a running thread as ended (3.11).
        self.ended = threading.Event()
        self._cancelled = threading.Event()
        self._result: Any = None
        self.error: Exception | None = None

    def cancel(self) -> None:
        """Ask the engine to end the job, also one that is just being submitted; says in the log
        when it could not be. Workers here end by themselves."""
        self._cancelled.set()
        if not self._engine.workers_here:
            asking = threading.Thread(target=self._ask_to_end, daemon=True)
            asking.start()
            asking.join(_CANCEL_S)

    def _ask_to_end(self) -> None:
        while self._result is None and not self.ended.wait(_POLL_S):
            pass
        if self._result is not None:
            try:
                self._result.cancel()
            except Exception as error:  # noqa: BLE001 - clients have no common base
                log.error(
                    "the job could not be cancelled: end it by the engine's own means (%s)", error
                )

    def run(self) -> None:
        # Threads and processes started from here inherit the mask: Ctrl-C reaches the main
        # thread alone, which then ends the build in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pipeline = beam.Pipeline(runner=self._engine.runner, options=self._options)
            self._add_graph(pipeline, self._run)
            if self._cancelled.is_set():
                return
            self._result = pipeline.run()
            self._result.wait_until_finish()
        except Exception as error:
            log.error("the graph failed", exc_info=error)
            self.error = error
        finally:
            worker.stop()
            self.ended.set()


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


def _in_words(error: BaseException) -> str:
    """What the graph failed for: the line of a Beam traceback that says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "no message"
    for line in [f"{type(error).__name__}: {last}", *lines]:
        # Under its type's name, with the step appended, as the runner hands exceptions on.
        if said := _SAID_IN_WORDS.search(line):
            return line[said.end() :].partition(" [while running")[0]
    return f"{type(error).__name__}: {last}"
