"""The graph: one straight line from shard specs to committed shards."""

from __future__ import annotations

import json
from collections.abc import Sequence

import apache_beam as beam

from facecap.pipeline.manifest import finish_dataset
from facecap.pipeline.output import BuildFile
from facecap.pipeline.plan import Plan
from facecap.pipeline.settings import Settings
from facecap.pipeline.tar_input import TarPlan
from facecap.pipeline.words import load_words
from facecap.schemas.shard import ShardSpec
from facecap.transforms import coders as _coders  # noqa: F401 - registers SampleBatch's coder
from facecap.transforms.classify_attributes import ClassifyAttributes
from facecap.transforms.compose_caption import ComposeCaption
from facecap.transforms.crop import Crop, EncodeCrops
from facecap.transforms.detect import Detect, batch_size
from facecap.transforms.download import Download
from facecap.transforms.read_rows import ReadRows
from facecap.transforms.read_tars import ReadTars
from facecap.transforms.rewrite_caption import RewriteCaption
from facecap.transforms.screen import ScreenBodies, ScreenConfig, ScreenRows
from facecap.transforms.worker import Run
from facecap.transforms.write_shard import WriteConfig, WriteShard


def add_graph(
    pipeline: beam.Pipeline,
    specs: Sequence[ShardSpec],
    settings: Settings,
    plan: Plan | TarPlan,
    build: BuildFile,
    output: str,
    run: Run,
    screen: ScreenConfig | None = None,
) -> beam.PCollection:
    """Everything between the Reshuffle and the statistics fuses into one stage: image bytes
    never cross a stage boundary, so nothing holds them back and nothing shuffles them."""
    words = load_words(
        settings.attributes, settings.caption, settings.rewrite, build.models["attributes.model"]
    )
    write = WriteConfig(
        output=output,
        fingerprint=build.fingerprint,
        extra=plan.extra,
        footer=json.dumps({"fingerprint": build.fingerprint, "settings": build.settings}),
        reject_samples=settings.build.reject_samples,
        decode=settings.decode,
        captions=words.stored,
        min_answered=settings.rewrite.min_answered,
    )
    screen = screen or ScreenConfig()
    size = batch_size(settings.detect.provider)
    shards = pipeline | "Shards" >> beam.Create(specs) | "Spread" >> beam.Reshuffle()
    if isinstance(plan, TarPlan):
        fetched = (
            shards
            | "ReadTars" >> ReadTars(output, plan.columns, settings.download.max_bytes, run, size)
            | "ScreenRows" >> ScreenRows(screen)
        )
    else:
        fetched = (
            shards
            | "ReadRows" >> ReadRows(output, plan.columns, run, size)
            | "ScreenRows" >> ScreenRows(screen)
            | "Download" >> Download(settings.download, size, screen.check_redirect)
        )
    captioned = (
        fetched
        | "ScreenBodies" >> ScreenBodies(screen)
        | "Detect" >> Detect(settings.detect, settings.decode, settings.crop.min_side)
        | "Crop" >> make_crop(settings)
        | "ClassifyAttributes" >> ClassifyAttributes(settings.attributes)
        | "ComposeCaption" >> ComposeCaption(words.composer)
        | "EncodeCrops" >> EncodeCrops(settings.crop, settings.decode)
    )
    if words.rewrite is not None:
        # Behind EncodeCrops, which still has the pixels of the batch that Crop decoded.
        captioned = captioned | "RewriteCaption" >> RewriteCaption(words.rewrite, size)
    return (
        captioned
        | "WriteShard" >> WriteShard(write)
        | "Statistics" >> beam.combiners.ToList()
        | "FinishDataset" >> beam.Map(finish_dataset, output)
    )


def make_crop(settings: Settings) -> Crop:
    assert settings.crop.min_score is not None  # resolved before the graph is made
    return Crop(
        settings.crop, settings.decode, settings.attributes.alignment, settings.crop.min_score
    )
