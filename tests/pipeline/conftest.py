"""A whole dataset, written by the real writer from made samples: no network, no models."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from facecap.pipeline.manifest import finish_dataset
from facecap.pipeline.output import BuildFile, claim, content_hash
from facecap.schemas.sample import SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.schemas.tables import SCHEMA_VERSION
from facecap.transforms.caption_columns import CaptionConfig
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.store import Store
from facecap.transforms.write_shard import ShardResult, ShardWriter, WriteConfig
from tests.samples import random_sample

ROWS, PER_SHARD = 25, 10
CONTENT: dict[str, Any] = {
    "settings": {"crop.min_side": 128},
    "models": {"detect.model": "aa"},
    "input": {"rows": ROWS},
}
FINGERPRINT = content_hash(SCHEMA_VERSION, *CONTENT.values())


def write_shard(store: Store, number: int) -> None:
    rows = min(PER_SHARD, ROWS - number * PER_SHARD)
    spec = ShardSpec(number, number * PER_SHARD, (InputRange("x", 0, rows),))
    extra = pa.schema([("similarity", pa.float64())])
    config = WriteConfig(
        str(store.root), FINGERPRINT, extra, "{}", 2, DecodeOptions(), CaptionConfig()
    )
    rng = random.Random(number)
    writer = ShardWriter(spec, config, store)
    writer.add(
        SampleBatch(spec, tuple(random_sample(spec.first_row + i, rng) for i in range(rows)))
    )
    writer.close()
    writer.abandon()


@pytest.fixture
def build_file() -> BuildFile:
    return BuildFile(fingerprint=FINGERPRINT, rows_per_shard=PER_SHARD, shards=3, **CONTENT)


@pytest.fixture
def dataset(tmp_path: Path, build_file: BuildFile) -> Store:
    """Three shards of 10, 10 and 5 rows with their manifest."""
    store = Store(tmp_path / "dataset")
    store.root.mkdir()
    claim(store, build_file)
    for number in range(build_file.shards):
        write_shard(store, number)
    results = [ShardResult(n) for n in range(build_file.shards)]
    assert finish_dataset(results, str(store.root)) == build_file.shards
    store.remove_tree("_attempts")
    assert json.loads(store.read("dataset.json"))["funnel"]["faces_kept"] > 3
    return store
