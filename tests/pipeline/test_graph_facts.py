"""The graph's facts, and the errors of a graph that breaks the rules."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline import graph_facts
from facecap.pipeline.errors import UsageError
from facecap.pipeline.graph import add_graph
from facecap.pipeline.graph_facts import inspect_graph
from facecap.pipeline.output import BuildFile
from facecap.pipeline.plan import Plan
from facecap.pipeline.settings import content_settings, load_settings
from facecap.pipeline.tar_input import TarPlan
from facecap.transforms.worker import Run
from tests.pipeline.test_graph import web_scale_list, web_scale_tars

OUTPUT = "gs://my-bucket/faces"
HINT = "--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


def add(pipeline: beam.Pipeline, plan: Plan | TarPlan, output: str = OUTPUT) -> None:
    """The graph of `plan`; the score is set, so no model is needed."""
    settings = load_settings(overrides=["crop.min_score=0.98"])
    build = BuildFile(
        fingerprint="f" * 64,
        rows_per_shard=10_000,
        shards=plan.shards,
        settings=content_settings(settings),
        models={"attributes.model": "0" * 64},
        input={},
    )
    add_graph(pipeline, plan.specs(), settings, plan, build, output, Run())


def proto_of(*options: str, plan: Plan | TarPlan | None = None) -> Any:
    pipeline = beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(list(options)))
    add(pipeline, plan or web_scale_list())
    return pipeline.to_runner_api()


@pytest.mark.parametrize("hint", [None, HINT], ids=["no hint", "hint"])
@pytest.mark.parametrize("plan", [web_scale_list(), web_scale_tars()], ids=["list", "tars"])
def test_fifty_million_urls_for_a_bucket(plan: Plan | TarPlan, hint: str | None) -> None:
    facts = inspect_graph(proto_of(*[hint] if hint else [], plan=plan))
    assert facts.bytes < 1_000_000
    assert facts.largest_literal < 200_000 and facts.largest_literal_of.startswith("Shards")
    assert facts.environments == 1
    assert facts.accelerator == (hint or "").partition("=accelerator=")[2]
    read = ("ReadTars",) if isinstance(plan, TarPlan) else ("ReadRows",)
    assert facts.line[:1] == read and facts.line[-1] == "WriteShard"
    assert {"Detect", "Crop", "ClassifyAttributes", "ComposeCaption"} <= set(facts.line)
    assert sum("Detect" in stage for stage in facts.stages) == 1
    assert "1 environment" in str(facts) and "WriteShard" in str(facts)


def test_a_hint_on_one_stage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hinted = beam.Map(lambda batch: batch).with_resource_hints(accelerator="type:nvidia-l4;count:1")
    with pytest.raises(UsageError, match=r"2 environments instead of one.*never to a stage"):
        inspect_graph(_with_extra_step(monkeypatch, hinted))


def test_a_reshuffle_of_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="images would cross"):
        inspect_graph(_with_extra_step(monkeypatch, beam.Reshuffle()))


def _with_extra_step(monkeypatch: pytest.MonkeyPatch, step: beam.PTransform) -> Any:
    """The proto of a graph in which somebody put `step` in front of Detect."""
    from facecap.pipeline import graph

    real = graph.Detect

    class Regrouped(beam.PTransform):
        def __init__(self, *arguments: Any) -> None:
            super().__init__()
            self._detect = real(*arguments)

        def expand(self, batches: beam.PCollection) -> beam.PCollection:
            return batches | "Extra" >> step | self._detect

    monkeypatch.setattr(graph, "Detect", Regrouped)
    return proto_of()


def test_large_graphs_and_literals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = proto_of()
    monkeypatch.setattr(graph_facts, "MAX_LITERAL_BYTES", 10_000)
    with pytest.raises(UsageError, match=r"literal of [\d,]+ bytes in Shards"):
        inspect_graph(proto)
    monkeypatch.setattr(graph_facts, "MAX_GRAPH_BYTES", 100_000)
    with pytest.raises(UsageError, match=r"build\.rows_per_shard"):
        inspect_graph(proto)


def test_the_proto_is_left_as_it_was() -> None:
    proto = proto_of()
    before = proto.SerializeToString(deterministic=True)
    inspect_graph(proto)
    assert proto.SerializeToString(deterministic=True) == before
