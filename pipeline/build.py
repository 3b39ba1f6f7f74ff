"""`facecap build`: plan, claim the output folder, run the graph, say what became of it all."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline import terminal
from facecap.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SUSPECT,
    BuildFailed,
    UsageError,
)
from facecap.pipeline.graph import add_graph
from facecap.pipeline.manifest import read_failures, read_records
from facecap.pipeline.output import (
    CRASHES_TO_DROP,
    LOGS,
    PROGRESS,
    BuildFile,
    claim,
    read_crashes,
    shared_lock_and_cleaning,
)
from facecap.pipeline.plan import Plan, describe_sources, find_sources, make_plan, read_footers
from facecap.pipeline.settings import (
    Settings,
    content_settings,
    fingerprint,
    resolve_models,
)
from facecap.pipeline.staging import stage
from facecap.schemas.commit import Counts
from facecap.transforms import worker
from facecap.transforms.store import Store

ATTEMPTED_BEFORE_JUDGING = 2_000
"""`build.min_success_rate` is looked at only after this many rows."""

_POLL_S = 0.25
_LOST_WORKER_GRACE_S = 10.0


@dataclass(frozen=True)
class BuildRequest:
    """What the command line asks for."""

    input: str
    output: Path
    settings: Settings
    limit: int | None = None
    beam_options: Sequence[str] = ()

    @property
    def workers(self) -> int:
        return self.settings.build.workers or len(os.sched_getaffinity(0))


def build(request: BuildRequest, screen: terminal.Screen) -> int:
    """Run a build and return its exit code (pipeline.errors).

    Raises UsageError on bad settings or input before anything is written to a foreign folder,
    BuildFailed when the graph could not finish; committed shards stay in either case.
    """
    beam_options = local_options(request.workers, request.beam_options)
    settings, models = resolve_models(request.settings)
    sources = find_sources(request.input)
    store = _open_output(request.output)
    with shared_lock_and_cleaning(store) as crashed_rows:
        paths = [
            s.path if s.format == "parquet" else stage(s, store.root, settings.input)
            for s in sources
        ]
        plan = make_plan(
            read_footers(paths),
            settings.input,
            request.input,
            request.limit,
            settings.build.rows_per_shard,
        )
        described = describe_sources(sources, plan, request.limit)
        wanted = BuildFile(
            fingerprint=fingerprint(settings, models, described),
            rows_per_shard=plan.rows_per_shard,
            shards=plan.shards,
            settings=content_settings(settings),
            models=models,
            input=described,
        )
        claim(store, wanted)
        done = Counts.total(r.counts for r in read_records(store, wanted).values())
        screen.start(plan.rows, done)
        if done.rows < plan.rows:
            for row, times in sorted(read_crashes(store).items()):
                screen.say(f"row {row} crashed a worker in native code: {_next_step(times)}")
        try:
            return _run(beam_options, settings, plan, wanted, store, crashed_rows, done, screen)
        finally:
            screen.stop()


def _next_step(crashes: int) -> str:
    if crashes < CRASHES_TO_DROP:
        return "it is tried once more"
    return "it did so twice and is left out as decode_crashed"


def _open_output(path: Path) -> Store:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"--output {path}: not writable")
    return Store(path.resolve())


def _run(
    beam_options: PipelineOptions,
    settings: Settings,
    plan: Plan,
    build_file: BuildFile,
    store: Store,
    crashed_rows: frozenset[int],
    done: Counts,
    screen: terminal.Screen,
) -> int:
    stopped: str | None = None
    with _run_folder(store) as folder:
        run = worker.Run(str(folder), str(store.root), os.getpid(), crashed_rows)
        graph = _GraphThread(beam_options, settings, plan, build_file, store, run)
        watch = _Watch(folder, settings.build.min_success_rate)
        with _terminate_is_interrupt(), _stderr_to(store.path(LOGS) / f"{folder.name}.log"):
            graph.start()
            try:
                while graph.is_alive():
                    graph.join(_POLL_S)
                    progress = watch.look()
                    screen.update(progress, done)
                    watch.judge(progress)
            except KeyboardInterrupt:
                stopped = "interrupted"
            except SuccessRateTooLow as low:
                stopped = str(low)
        if stopped is None:
            screen.update(watch.look(), done)
    screen.stop()
    records = read_records(store, build_file)
    total = Counts.total(r.counts for r in records.values())
    screen.summary(total, build_file, len(records), store.root)
    if stopped == "interrupted":
        screen.say(
            "Stopped. What is committed stays; give the same command to continue from there."
        )
        return EXIT_INTERRUPTED
    if stopped:
        screen.say(f"Stopped: {stopped}")
        return EXIT_SUSPECT
    if graph.error is not None:
        raise BuildFailed(f"{type(graph.error).__name__}: {_first_line(graph.error)}")
    return _exit_code(total, len(records), build_file, settings, store, screen)


def _exit_code(
    total: Counts,
    committed: int,
    build_file: BuildFile,
    settings: Settings,
    store: Store,
    screen: terminal.Screen,
) -> int:
    if committed < build_file.shards:
        for shard, error in read_failures(store).items():
            screen.say(f"shard {shard} failed and stays uncommitted: {error}")
        screen.say(f"{build_file.shards - committed} of {build_file.shards} shards failed.")
        return EXIT_FAILED
    code = EXIT_DONE
    if total.internal_errors:
        screen.say(
            f"{total.internal_errors} rows met an INTERNAL ERROR: a defect of facecap or of a "
            f"library, please report it; tracebacks are in {store.path(LOGS)}"
        )
        code = EXIT_SUSPECT
    low = _too_low(total.rows, success_count(total), settings.build.min_success_rate)
    if low:
        screen.say(low)
        code = EXIT_SUSPECT
    return code


def success_count(counts: Counts) -> int:
    """Rows that were fetched and decoded."""
    return counts.rows_after(terminal.DECODED)


class SuccessRateTooLow(Exception):
    """The share of rows fetched and decoded is under build.min_success_rate."""


def _too_low(attempted: int, succeeded: int, minimum: float) -> str | None:
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
        self,
        options: PipelineOptions,
        settings: Settings,
        plan: Plan,
        build_file: BuildFile,
        store: Store,
        run: worker.Run,
    ) -> None:
        super().__init__(name="facecap-graph", daemon=True)
        self._make = lambda pipeline: add_graph(
            pipeline, plan.specs(), settings, plan, build_file, str(store.root), run
        )
        self._options = options
        self.error: Exception | None = None

    def run(self) -> None:
        # Threads and processes started from here inherit the mask: Ctrl-C reaches the main
        # thread alone, which then ends the build in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with beam.Pipeline(runner="FnApiRunner", options=self._options) as pipeline:
                self._make(pipeline)
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

    def __init__(self, folder: Path, min_success_rate: float) -> None:
        self._folder, self._min_success_rate = folder, min_success_rate
        self._lost_since: float | None = None

    def look(self) -> terminal.Progress:
        """The sum over all workers of this run. Raises BuildFailed when one died."""
        reports = worker.read_reports(self._folder)
        if worker.crash_traces(self._folder):
            rows = ", ".join(map(str, sorted(worker.rows_in_flight(self._folder))))
            raise BuildFailed(
                f"a worker crashed in native code{rows and f' at row {rows}'}; give the same "
                "command to continue: a row that crashes twice is left out as decode_crashed"
            )
        if all(_is_running(int(r["pid"])) for r in reports):
            self._lost_since = None
        else:
            self._lost_since = self._lost_since or time.monotonic()
            if time.monotonic() - self._lost_since > _LOST_WORKER_GRACE_S:
                raise BuildFailed(
                    "a worker process was killed (out of memory?); give the same command to "
                    "continue, with fewer --workers if memory is short"
                )
        return terminal.Progress.sum(reports)

    def judge(self, progress: terminal.Progress) -> None:
        """Raises SuccessRateTooLow."""
        low = _too_low(progress.rows, progress.decoded, self._min_success_rate)
        if low:
            raise SuccessRateTooLow(low)


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
def _terminate_is_interrupt() -> Iterator[None]:
    """SIGTERM (a scheduler's stop) ends the build as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Send this process's and its workers' standard error to a file: Beam's own messages
    would drown the progress bar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
