"""The coder: batches survive it, and the line never needs it."""

from __future__ import annotations

import random

import apache_beam as beam

from facecap.schemas.sample import SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms.coders import SampleBatchCoder
from tests.pipeline.test_graph import web_scale_pipeline
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


def test_every_collection_of_batches_uses_it() -> None:
    stages = ("ReadRows", "Download", "Detect", "Crop", "ClassifyAttributes", "ComposeCaption")
    pipeline = web_scale_pipeline()
    coders = {}

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
            stage = node.full_label.split("/")[0]
            for output in node.outputs.values():
                if stage in stages:
                    coders[node.full_label] = beam.coders.registry.get_coder(output.element_type)

    pipeline.visit(Visitor())
    assert {name.split("/")[0] for name in coders} == set(stages)
    wrong = {name: coder for name, coder in coders.items() if type(coder) is not SampleBatchCoder}
    assert not wrong
