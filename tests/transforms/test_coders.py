"""The coder: batches survive it, and the line never needs it."""

from __future__ import annotations

import random
from typing import Any

import apache_beam as beam
import pytest

from facecap.schemas.sample import SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms.coders import SampleBatchCoder
from tests.pipeline.test_graph import web_scale_list, web_scale_pipeline, web_scale_tars
from tests.samples import random_sample

SPEC = ShardSpec(1, 10, (InputRange("x", 0, 5),))


def batch() -> SampleBatch:
    rng = random.Random(1)
    return SampleBatch(SPEC, tuple(random_sample(10 + i, rng) for i in range(5)), "broken")


def test_a_batch_survives_and_its_size_is_told_without_encoding() -> None:
    coder = SampleBatchCoder()
    there_and_back = coder.decode(coder.encode(batch()))
    assert [s.row for s in there_and_back.samples] == [s.row for s in batch().samples]
    assert there_and_back.failure == "broken" and there_and_back.shard == SPEC
    image_bytes = sum(len(s.fetched.body or b"") for s in batch().samples if s.fetched)
    assert coder.estimate_size(batch()) >= image_bytes > 0


@pytest.mark.parametrize(
    ("plan", "first"),
    [(web_scale_list(), {"ReadRows", "Download"}), (web_scale_tars(), {"ReadTars"})],
    ids=["list", "tars"],
)
def test_every_collection_of_batches_uses_it(plan: Any, first: set[str]) -> None:
    screens = {"ScreenRows", "ScreenBodies"}
    stages = {*first, *screens, "Detect", "Crop", "ClassifyAttributes", "ComposeCaption"}
    stages.add("EncodeCrops")
    pipeline = web_scale_pipeline(plan)
    coders = {}

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
            stage = node.full_label.split("/")[0]
            for output in node.outputs.values():
                if stage in stages:
                    coders[node.full_label] = beam.coders.registry.get_coder(output.element_type)

    pipeline.visit(Visitor())
    assert {name.split("/")[0] for name in coders} == stages
    wrong = {name: coder for name, coder in coders.items() if type(coder) is not SampleBatchCoder}
    assert not wrong
