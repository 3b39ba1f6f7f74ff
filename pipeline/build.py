"""`facecap build`: plan, claim the output folder, run the graph, say what became of it all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam

from facecap.pipeline import laion_face, terminal
from facecap.pipeline.dataflow import DataflowEngine
from facecap.pipeline.dataflow_job import write_template
from facecap.pipeline.engines import Target, make_engine
from facecap.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SUSPECT,
    BuildFailed,
    UsageError,
)
from facecap.pipeline.execution import (
    Engine,
    Interrupted,
    SuccessRateTooLow,
    execute,
    too_low,
)
from facecap.pipeline.graph import add_graph
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
from facecap.pipeline.words import minors_note
from facecap.schemas.commit import Counts
from facecap.schemas.outcomes import Stage
from facecap.transforms import worker
from facecap.transforms.object_store import StoreError, is_remote, open_store
from facecap.transforms.same import Expected, Model, versions
from facecap.transforms.screen import ScreenConfig
from facecap.transforms.store import Store


@dataclass(frozen=True)
class BuildRequest:
    """What the command line asks for."""

    input: str
    output: str | Path
    settings: Settings
    limit: int | None = None
    beam_options: Sequence[str] = ()
    target: Target = field(default_factory=Target)


def build(request: BuildRequest, screen: terminal.Screen) -> int:
    """Run a build and return its exit code (pipeline.errors).

    Raises UsageError on bad settings or input before anything is written to a foreign folder,
    BuildFailed when the graph could not finish; committed shards stay in either case.
    """
    # Its errors first: planning may take a while.
    first = make_engine(
        request.target, request.settings, str(request.output), 1, request.beam_options
    )
    settings, models = resolve_models(request.settings, here=first.workers_here)
    lists = read_lists(settings.screen)
    models |= lists.hashes
    # A wrong --input leaves no empty folder behind.
    if find_sources(request.input)[0].format == "tar":
        screen.say("The input is tars: nothing is downloaded, each is one shard.")
    store = _open_output(request.output)
    with shared_lock_and_cleaning(store) as crashed_rows:
        plan, build_file = prepare(request, settings, models, store)
        claim(store, build_file)
        if ids := build_file.input.get("sample_ids"):
            screen.say(str(laion_face.IdList(**ids)))
        if note := minors_note(settings.attributes.minors, models):
            screen.say(note)
        screens = lists.stage(store, settings.input.hash_column)
        records = read_records(store, build_file)
        done = Counts.total(r.counts for r in records.values())
        screen.start(plan.rows, done)
        if len(records) < plan.shards:
            for row, times in sorted(read_crashes(store).items()):
                screen.say(f"row {row} crashed a worker in native code: {_next_step(times)}")
        engine = make_engine(
            request.target, settings, str(store), plan.shards, request.beam_options
        )
        refuse_unreachable(engine, str(store), plan)
        try:
            return _run(
                engine, settings, plan, build_file, store, crashed_rows, done, screen, screens
            )
        finally:
            screen.stop()


def prepare(
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
        source.path if source.format == "parquet" else stage(source, store, settings.input)
        for source in sources
    ]
    ids = None
    if settings.input.sample_ids is not None:
        paths, ids = laion_face.join(sources, paths, store, settings.input)
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


def _open_output(output: str | Path) -> Store:
    try:
        store = open_store(output)
    except StoreError as error:
        raise UsageError(f"--output {error}") from None
    if store.is_remote:
        return store
    path = store.root
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"--output {path}: not writable")
    return Store(path.resolve())


def refuse_unreachable(engine: Engine, output: str, plan: Plan | TarPlan) -> None:
    """Raises UsageError where the workers, on other machines, cannot see what they shall read."""
    if engine.workers_here or not is_remote(output):
        return
    paths = plan.tars if isinstance(plan, TarPlan) else [file.path for file in plan.files]
    local = next((path for path in paths if not is_remote(path)), None)
    if local is not None:
        raise UsageError(
            f"--input {local}: is on this machine, and the workers are on others; copy it to where "
            f"{output} is, and name it there"
        )


def _run(
    engine: Engine,
    settings: Settings,
    plan: Plan | TarPlan,
    build_file: BuildFile,
    store: Store,
    crashed_rows: frozenset[int],
    done: Counts,
    screen: terminal.Screen,
    screens: ScreenConfig,
) -> int:
    def add(pipeline: beam.Pipeline, run: worker.Run) -> None:
        add_graph(pipeline, plan.specs(), settings, plan, build_file, str(store), run, screens)

    expected = _expected(settings, build_file)
    if isinstance(engine, DataflowEngine):
        run = worker.Run(None, "", crashed_rows=crashed_rows, expected=expected)
        template = write_template(lambda pipeline: add(pipeline, run), engine.options)
        if template is not None:
            screen.say(f"The job is written to {template}; who asked for it there starts it.")
            return EXIT_DONE
    stopped: Interrupted | SuccessRateTooLow | BuildFailed | None = None
    try:
        execute(
            engine,
            add,
            store,
            crashed_rows,
            expected,
            settings.build.min_success_rate,
            lambda progress: screen.update(progress, done),
        )
    except (Interrupted, SuccessRateTooLow, BuildFailed) as stop:
        stopped = stop
    screen.stop()
    records = read_records(store, build_file)
    total = Counts.total(r.counts for r in records.values())
    screen.captions(record.captions for record in records.values())
    screen.summary(total, build_file, len(records), str(store))
    if isinstance(stopped, BuildFailed):
        raise stopped
    if isinstance(stopped, Interrupted):
        screen.say("Stopped. What is committed stays; give the same command to continue.")
        return EXIT_INTERRUPTED
    if stopped is not None:
        screen.say(f"Stopped: {stopped}")
        return EXIT_SUSPECT
    return _exit_code(total, len(records), build_file, settings, store, screen)


def _expected(settings: Settings, build_file: BuildFile) -> Expected:
    """What workers elsewhere must have in common with this process."""
    models = []
    for section, options in (("detect", settings.detect), ("attributes", settings.attributes)):
        name = f"{section}.model"
        sha256 = build_file.models[name]
        models.append(Model(name, options.model, options.model_path, sha256))
    return Expected(tuple(versions().items()), tuple(models))


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
