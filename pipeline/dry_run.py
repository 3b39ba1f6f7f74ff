"""`facecap build --dry-run` and `facecap launch --plan`: everything up to the start, no further.
Nothing is written but to a temporary folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace

import apache_beam as beam

from facecap.pipeline import dataflow_job, launch
from facecap.pipeline.build import BuildRequest, prepare, refuse_unreachable
from facecap.pipeline.dataflow import DataflowEngine
from facecap.pipeline.engines import local_workers, make_engine
from facecap.pipeline.errors import UsageError
from facecap.pipeline.execution import Engine
from facecap.pipeline.graph import add_graph
from facecap.pipeline.graph_facts import GraphFacts, inspect_graph
from facecap.pipeline.launch import Fleet, Work
from facecap.pipeline.output import claim
from facecap.pipeline.plan import Plan
from facecap.pipeline.portable import PortableEngine
from facecap.pipeline.screens import read_lists
from facecap.pipeline.settings import resolve_models
from facecap.pipeline.tar_input import TarPlan
from facecap.transforms.object_store import StoreError, check_url, is_remote, open_store
from facecap.transforms.store import Store
from facecap.transforms.worker import Run


@dataclass(frozen=True)
class Look:
    """What a build would be."""

    request: BuildRequest
    shards: int
    work: Work
    facts: GraphFacts
    fleet: Fleet

    def __str__(self) -> str:
        rows = "rows that are counted later" if self.work.rows is None else f"{self.work.rows} rows"
        return (
            f"{rows} in {self.shards} shards for {self.fleet.runner}, {self.fleet.where}\n"
            f"graph: {self.facts}\nSound; nothing was started or written."
        )

    def plan(self, images_per_second_per_core: float | None = None) -> str:
        """The plan and its estimate."""
        settings = self.request.settings
        return launch.plan_text(self.fleet, self.work, settings, images_per_second_per_core)


def dry_run(request: BuildRequest) -> Look:
    """Raises UsageError on whatever a build would refuse before it asks a server."""
    output, extra = str(request.output), request.beam_options
    first = make_engine(request.target, request.settings, output, 1, extra)
    _refuse_output(output)
    settings, models = resolve_models(request.settings, here=first.workers_here)
    lists = read_lists(settings.screen)
    with tempfile.TemporaryDirectory(prefix="facecap-") as folder:
        store = Store(folder)
        plan, build_file = prepare(request, settings, models | lists.hashes, store)
        screens = lists.stage(store, settings.input.hash_column)
    if not is_remote(output):
        claim(_Untouched(open_store(output).root), build_file)
    engine = make_engine(request.target, settings, output, plan.shards, extra)
    listed = plan
    if isinstance(plan, Plan):  # what is staged here, a build stages in its output
        kept = tuple(file for file in plan.files if not file.path.startswith(folder))
        listed = replace(plan, files=kept)
    refuse_unreachable(engine, output, listed)

    def add(pipeline: beam.Pipeline) -> None:
        run = Run(None, "")
        add_graph(pipeline, plan.specs(), settings, plan, build_file, output, run, screens)

    if isinstance(engine, DataflowEngine):
        facts = dataflow_job.dry_run(add, engine.options).facts
        fleet = launch.dataflow_fleet(settings.dataflow, settings.detect.provider, engine.options)
    else:
        pipeline = beam.Pipeline(runner="FnApiRunner")
        try:
            add(pipeline)
            facts = inspect_graph(pipeline.to_runner_api())
        finally:
            shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # `run` would remove it
        fleet = _fleet(engine, request)
    work = Work(plan.rows, plan.shards, output, downloads=not isinstance(plan, TarPlan))
    return Look(request, plan.shards, work, facts, fleet)


class _Untouched(Store):
    """An output folder that is only looked at."""

    def create(self, name: str, data: bytes, beside: str | None = None) -> bool:
        return True


def _refuse_output(output: str) -> None:
    """Raises UsageError on an output that a build could not write. A bucket is not asked."""
    if is_remote(output):
        try:
            return check_url(output)
        except StoreError as error:
            raise UsageError(f"--output {error}") from None
    root = open_store(output).root
    there = next(path for path in (root, *root.parents) if os.access(path, os.F_OK))
    if not there.is_dir():
        raise UsageError(f"--output {root}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--output {root}: {there} is not writable")


def _fleet(engine: Engine, request: BuildRequest) -> Fleet:
    """The machines of the other engines. How many executors a cluster has only it knows."""
    target = request.target
    if isinstance(engine, PortableEngine):
        where = target.spark_master or target.flink_master or "this machine"
        return Fleet(engine.name, where, 1, engine.workers, engine.workers)
    return launch.local_fleet(local_workers(request.settings))
