"""`facecap build --dry-run` and `facecap launch --plan`: everything up to the start, no further.
Nothing is written but to a temporary folder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import apache_beam as beam

from facecap.pipeline import dataflow_job, launch
from facecap.pipeline.build import BuildRequest, prepare, refuse_unreachable
from facecap.pipeline.dataflow import DataflowEngine
from facecap.pipeline.engines import local_workers, make_engine
from facecap.pipeline.graph import add_graph
from facecap.pipeline.graph_facts import GraphFacts, inspect_graph
from facecap.pipeline.launch import Fleet, Work
from facecap.pipeline.screens import read_lists
from facecap.pipeline.settings import resolve_models
from facecap.pipeline.tar_input import TarPlan
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
    """Raises UsageError on whatever a build would refuse."""
    output, extra = str(request.output), request.beam_options
    first = make_engine(request.target, request.settings, output, 1, extra)
    settings, models = resolve_models(request.settings, here=first.workers_here)
    lists = read_lists(settings.screen)
    with tempfile.TemporaryDirectory(prefix="facecap-") as folder:
        store = Store(folder)
        plan, build_file = prepare(request, settings, models | lists.hashes, store)
        screens = lists.stage(store, settings.input.hash_column)
    engine = make_engine(request.target, settings, output, plan.shards, extra)
    refuse_unreachable(engine, output, plan)

    def add(pipeline: beam.Pipeline) -> None:
        run = Run(None, "")
        add_graph(pipeline, plan.specs(), settings, plan, build_file, output, run, screens)

    if isinstance(engine, DataflowEngine):
        facts = dataflow_job.dry_run(add, engine.options).facts
        fleet = launch.dataflow_fleet(settings.dataflow, settings.detect.provider, engine.options)
    else:
        pipeline = beam.Pipeline(runner="FnApiRunner")
        add(pipeline)
        facts = inspect_graph(pipeline.to_runner_api())
        fleet = _fleet(request)
    work = Work(plan.rows, plan.shards, output, downloads=not isinstance(plan, TarPlan))
    return Look(request, plan.shards, work, facts, fleet)


def _fleet(request: BuildRequest) -> Fleet:
    """The machines of the other engines. How many executors a cluster has only it knows."""
    target, settings = request.target, request.settings
    if target.runner in ("spark", "flink"):
        where = target.spark_master or target.flink_master or "[local]"
        processes = settings.build.workers or (
            local_workers(settings) if where.strip("[").startswith("local") else 1
        )
        return Fleet(target.runner, where, 1, processes, processes)
    fleet = launch.local_fleet(local_workers(settings))
    return Fleet(target.runner, fleet.where, 1, fleet.cores, fleet.processes)
