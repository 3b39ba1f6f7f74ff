"""The graph's shape: one straight line, one fused stage, one environment, small."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import translations

from facecap.pipeline.graph import add_graph
from facecap.pipeline.output import BuildFile
from facecap.pipeline.plan import ParquetFile, Plan
from facecap.pipeline.settings import Settings, content_settings, resolve_models
from facecap.pipeline.tar_input import TarPlan
from facecap.transforms.read_rows import Columns, InputOptions
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.tar_columns import TarColumns
from facecap.transforms.worker import Run

GROUP_BY_KEY = "beam:transform:group_by_key:v1"


def web_scale_list() -> Plan:
    files = tuple(ParquetFile(f"/data/{n}.parquet", 12_500_000, pa.schema([])) for n in range(4))
    return Plan(files, Columns(url="url"), 50_000_000, 10_000)


def web_scale_tars() -> TarPlan:
    tars = tuple(f"file:///data/laion-face/{n:05d}.tar" for n in range(5000))
    return TarPlan(tars, TarColumns.of(InputOptions()))


def web_scale_pipeline(plan: Plan | TarPlan, backend: str = "none") -> beam.Pipeline:
    settings, models = resolve_models(Settings())
    settings = settings.model_copy(update={"rewrite": RewriteOptions(backend=backend)})
    build = BuildFile(
        fingerprint="f" * 64,
        rows_per_shard=10_000,
        shards=plan.shards,
        settings=content_settings(settings),
        models=models,
        input={},
    )
    pipeline = beam.Pipeline(runner="FnApiRunner")
    add_graph(pipeline, plan.specs(), settings, plan, build, str(Path("out")), Run())
    return pipeline


READS = {Plan: ("ReadRows", "Download"), TarPlan: ("ReadTars",)}


@pytest.mark.parametrize("backend", ["none", "openai", "transformers"])
@pytest.mark.parametrize("plan", [web_scale_list(), web_scale_tars()], ids=["list", "tars"])
def test_all_image_bytes_stay_in_one_fused_stage(plan: Plan | TarPlan, backend: str) -> None:
    proto = web_scale_pipeline(plan, backend).to_runner_api()
    _, stages = translations.create_and_optimize_stages(
        proto,
        phases=translations.standard_optimize_phases(),
        known_runner_urns=frozenset([GROUP_BY_KEY]),
    )
    names = (*READS[type(plan)], "ScreenRows", "ScreenBodies", "Detect", "Crop")
    names = (*names, "ClassifyAttributes", "ComposeCaption", "EncodeCrops")
    names = (*names, *(["RewriteCaption"] if backend != "none" else []))
    line = {
        name: [s for s in stages if any(t.unique_name.split("/")[0] == name for t in s.transforms)]
        for name in (*names, "WriteShard")
    }
    assert all(len(found) == 1 for found in line.values()), line
    (stage,) = {id(found[0]): found[0] for found in line.values()}.values()
    assert GROUP_BY_KEY not in {t.spec.urn for t in stage.transforms}
    assert len(proto.components.environments) == 1


@pytest.mark.parametrize("plan", [web_scale_list(), web_scale_tars()], ids=["list", "tars"])
def test_the_graph_of_fifty_million_urls_is_under_a_megabyte(plan: Plan | TarPlan) -> None:
    graph = web_scale_pipeline(plan, "openai").to_runner_api()
    assert len(graph.SerializeToString()) < 1_000_000
