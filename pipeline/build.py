"""`facecap build`: plan, claim the output folder, run the graph, say what became of it all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline import laion_face, terminal
from facecap.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SUSPECT,
    BuildFailed,
    UsageError,
)
from facecap.pipeline.graph import add_graph
from facecap.pipeline.local import (
    Interrupted,
    SuccessRateTooLow,
    local_options,
    run_locally,
    too_low,
)
from facecap.pipeline.manifest import read_failures, read_records
from facecap.pipeline.output import (
    CRASHES_TO_DROP,
    LOGS,
    BuildFile,
    claim,
    read_crashes,
    shared_lock_and_cleaning,
)
from facecap.pipeline.plan import Plan, describe_sources, make_plan, read_footers
from facecap.pipeline.screens import check_hash_column, read_lists
from facecap.pipeline.settings import (
    Settings,
    content_settings,
    fingerprint,
    resolve_models,
)
from facecap.pipeline.sources import SourceFile, find_sources
from facecap.pipeline.staging import stage
from facecap.pipeline.tar_input import TarPlan, describe_tars, plan_tars
from facecap.schemas.commit import Counts
from facecap.schemas.outcomes import Stage
from facecap.transforms.screen import ScreenConfig
from facecap.transforms.store import Store


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
    lists = read_lists(settings.screen)
    models |= lists.hashes
    # A wrong --input leaves no empty folder behind.
    if find_sources(request.input)[0].format == "tar":
        screen.say("The input is tars: nothing is downloaded, each is one shard.")
    store = _open_output(request.output)
    with shared_lock_and_cleaning(store) as crashed_rows:
        plan, build_file = _prepare(request, settings, models, store)
        claim(store, build_file)
        if ids := build_file.input.get("sample_ids"):
            screen.say(str(laion_face.IdList(**ids)))
        screens = lists.stage(store, settings.input.hash_column)
        records = read_records(store, build_file)
        done = Counts.total(r.counts for r in records.values())
        screen.start(plan.rows, done)
        if len(records) < plan.shards:
            for row, times in sorted(read_crashes(store).items()):
                screen.say(f"row {row} crashed a worker in native code: {_next_step(times)}")
        try:
            return _run(
                beam_options, settings, plan, build_file, store, crashed_rows, done, screen, screens
            )
        finally:
            screen.stop()


def _prepare(
    request: BuildRequest, settings: Settings, models: dict[str, str], store: Store
) -> tuple[Plan | TarPlan, BuildFile]:
    """Plan the input, staging under `store` what is not Parquet; and what build.json will say."""
    sources = find_sources(request.input)
    if sources[0].format == "tar":
        plan, described = _plan_tars(request, settings, sources)
    else:
        plan, described = _plan_lists(request, settings, sources, store)
    check_hash_column(plan.extra, settings.input)
    build_file = BuildFile(
        fingerprint=fingerprint(settings, models, described),
        rows_per_shard=plan.rows_per_shard,
        shards=plan.shards,
        settings=content_settings(settings),
        models=models,
        input=described,
    )
    return plan, build_file


def _plan_tars(
    request: BuildRequest, settings: Settings, sources: Sequence[SourceFile]
) -> tuple[Plan | TarPlan, dict[str, Any]]:
    rows_per_shard, max_bytes = settings.build.rows_per_shard, settings.download.max_bytes
    plan = plan_tars(sources, settings.input, request.limit, rows_per_shard, max_bytes)
    return plan, describe_tars(sources, plan)


def _plan_lists(
    request: BuildRequest, settings: Settings, sources: Sequence[SourceFile], store: Store
) -> tuple[Plan | TarPlan, dict[str, Any]]:
    paths = [
        source.path if source.format == "parquet" else stage(source, store.root, settings.input)
        for source in sources
    ]
    ids = None
    if settings.input.sample_ids is not None:
        paths, ids = laion_face.join(sources, paths, store.root, settings.input)
    plan = make_plan(
        read_footers(paths),
        settings.input,
        request.input,
        request.limit,
        settings.build.rows_per_shard,
    )
    described = describe_sources(sources, plan, request.limit)
    return plan, described | ({"sample_ids": asdict(ids)} if ids else {})


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
    plan: Plan | TarPlan,
    build_file: BuildFile,
    store: Store,
    crashed_rows: frozenset[int],
    done: Counts,
    screen: terminal.Screen,
    screens: ScreenConfig,
) -> int:
    stopped: Interrupted | SuccessRateTooLow | BuildFailed | None = None
    try:
        run_locally(
            lambda pipeline, run: add_graph(
                pipeline, plan.specs(), settings, plan, build_file, str(store.root), run, screens
            ),
            beam_options,
            store,
            crashed_rows,
            settings.build.min_success_rate,
            lambda progress: screen.update(progress, done),
        )
    except (Interrupted, SuccessRateTooLow, BuildFailed) as stop:
        stopped = stop
    screen.stop()
    records = read_records(store, build_file)
    total = Counts.total(r.counts for r in records.values())
    screen.summary(total, build_file, len(records), store.root)
    if isinstance(stopped, BuildFailed):
        raise stopped
    if isinstance(stopped, Interrupted):
        screen.say("Stopped. What is committed stays; give the same command to continue.")
        return EXIT_INTERRUPTED
    if stopped is not None:
        screen.say(f"Stopped: {stopped}")
        return EXIT_SUSPECT
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
    attempted, decoded = total.rows_after(Stage.READ), total.rows_after(Stage.DECODE)
    low = too_low(attempted, decoded, settings.build.min_success_rate)
    if low:
        screen.say(low)
        code = EXIT_SUSPECT
    return code
