"""A shard's captions made anew from its metadata: what may not be said goes, the rest stays."""

from __future__ import annotations

import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import worker
from facecap.transforms.caption_columns import CaptionConfig
from facecap.transforms.commit import read_record
from facecap.transforms.compose_caption import CaptionOptions, Composer
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.grammar import load_grammar
from facecap.transforms.recaption import RecaptionConfig, RecaptionFn
from facecap.transforms.rows import count_ledger
from facecap.transforms.store import Store
from facecap.transforms.write_shard import ShardResult, ShardWriter, WriteConfig
from tests.samples import random_sample

ROWS = 60
SPEC = ShardSpec(4, 4 * ROWS, (InputRange("x", 0, ROWS),))
COMPOSER = Composer(CaptionOptions(), load_grammar())
LABELS = [("Smiling", "Young"), ("Attractive",), ("Male", "Bald", "Eyeglasses")]
SILENT = LABELS[1]


def labelled(sample: Sample, rng: random.Random) -> Sample:
    def one(face: Face) -> Face:
        if face.drop is not None:
            return face
        labels = rng.choice(LABELS)
        values = [0.9 if name in labels else 0.2 for name in ATTRIBUTES]
        return replace(face, labels=labels, probabilities=np.array(values, np.float32))

    return replace(sample, faces=tuple(one(face) for face in sample.faces))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A dataset of one shard of 60 rows."""
    rng = random.Random(1)
    extra = pa.schema([("similarity", pa.float64())])
    config = WriteConfig(str(tmp_path), "f", extra, "{}", 2, DecodeOptions(), CaptionConfig())
    store = Store(tmp_path)
    writer = ShardWriter(SPEC, config, store)
    samples = [labelled(random_sample(SPEC.first_row + i, rng), rng) for i in range(ROWS)]
    writer.add(SampleBatch(SPEC, tuple(samples)))
    writer.close()
    writer.abandon()
    return store


def recaption(store: Store, number: int = 1, composer: Composer = COMPOSER) -> ShardResult:
    config = RecaptionConfig(
        str(store), number, '{"note": 1}', composer, CaptionConfig(), None, 0.9
    )
    do_fn = RecaptionFn(config, worker.Run())
    do_fn.setup()
    do_fn.start_bundle()
    (result,) = do_fn.process((SPEC.number,))
    do_fn.teardown()
    return result


def rows(store: Store, kind: str) -> list[dict[str, Any]]:
    return pq.read_table(store.path(f"{kind}/000004.parquet")).to_pylist()


def members(store: Store) -> dict[str, bytes]:
    with tarfile.open(store.path("shards/000004.tar")) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}


def test_what_may_not_be_said_is_dropped_and_everything_else_is_kept(store: Store) -> None:
    before, ledger, tar = rows(store, "metadata"), rows(store, "ledger"), members(store)
    first = read_record(store, 4)
    assert recaption(store).error is None
    record = read_record(store, 4)
    assert (record.generation, record.recaption, record.fingerprint) == (2, 1, "f")
    after = {row["key"]: row for row in rows(store, "metadata")}
    spoken = {row["key"] for row in before if tuple(row["labels"]) != SILENT}
    assert set(after) == spoken and 5 < len(spoken) < len(before)
    for was in before:
        if was["key"] in spoken:
            now = after[was["key"]]
            (said,) = COMPOSER.compose(
                tuple(was["labels"]), np.array(was["probabilities"], np.float32), was["key"]
            )
            assert now["caption"] == now["raw_caption"] == said.raw
            assert now["stated_labels"] == list(said.stated)
            changed = {name for name in was if was[name] != now[name]}
            assert changed <= {"caption", "raw_caption", "captions", "stated_labels"}
            assert members(store)[f"{was['key']}.jpg"] == tar[f"{was['key']}.jpg"]
            about = json.loads(members(store)[f"{was['key']}.json"])
            assert about["caption"] == said.raw and list(about) == list(now)
    assert set(members(store)) == {f"{key}.{e}" for key in spoken for e in ("jpg", "json", "txt")}

    counts = count_ledger(rows(store, "ledger"))
    assert counts == record.counts and counts.balanced
    dropped = counts.faces_dropped["caption/nothing_to_state"]
    assert dropped == len(before) - len(spoken) == first.counts.faces_kept - counts.faces_kept
    for was, now in zip(ledger, rows(store, "ledger"), strict=True):
        faces = [(f["score"], f["box"]) for f in now["faces"]]
        assert faces == [(f["score"], f["box"]) for f in was["faces"]]
        kept = any(f["outcome"] == "kept" for f in now["faces"])
        assert (now["outcome"] == "kept") is kept
        if was["outcome"] == "kept" and not kept:
            assert (now["stage"], now["reason"]) == ("caption", "nothing_to_state")
    assert record.captions == {"grammar": len(spoken)}


def test_the_footer_says_what_it_was_made_with(store: Store) -> None:
    recaption(store)
    for kind in ("metadata", "ledger"):
        schema = pq.read_schema(store.path(f"{kind}/000004.parquet"))
        assert schema.metadata[b"facecap"] == b'{"note": 1}'


def test_twice_the_same_is_the_same(store: Store) -> None:
    recaption(store)
    first = {kind: entry.sha256 for kind, entry in read_record(store, 4).files.items()}
    assert recaption(store).error is None
    assert read_record(store, 4).generation == 2, "it was done"
    assert recaption(store, 2).error is None
    record = read_record(store, 4)
    assert record.generation == 3
    assert {kind: entry.sha256 for kind, entry in record.files.items()} == first


@pytest.mark.parametrize("kind", ["shards/000004.tar", "metadata/000004.parquet"])
def test_damage_gets_no_new_hash(store: Store, kind: str) -> None:
    data = bytearray(store.read(kind))
    data[len(data) // 2] ^= 1
    store.replace(kind, bytes(data))
    assert recaption(store).error == f"{kind} is not what was committed; see facecap verify"
    assert read_record(store, 4).generation == 1


def test_a_shard_without_rows(tmp_path: Path) -> None:
    """As an empty tar of the input makes one."""
    store = Store(tmp_path)
    spec = ShardSpec(4, 4_000_000, (), "empty.tar")
    config = WriteConfig(
        str(tmp_path), "f", pa.schema([]), "{}", 2, DecodeOptions(), CaptionConfig()
    )
    writer = ShardWriter(spec, config, store)
    writer.add(SampleBatch(spec, (), shard_rows=0))
    writer.close()
    writer.abandon()
    assert recaption(store).error is None
    assert read_record(store, 4).generation == 2 and rows(store, "ledger") == []


def test_a_shard_that_is_not_there(store: Store) -> None:
    store.path("commits/000004.json").unlink()
    assert "not committed" in recaption(store).error


def test_a_shard_without_faces(store: Store) -> None:
    nobody = Composer(CaptionOptions(), load_grammar(), ATTRIBUTES)
    silent = replace(nobody, options=CaptionOptions(gender="neutral"))
    recaption(store, 1, silent)
    for number in (2, 3):
        assert recaption(store, number, silent).error is None
    assert read_record(store, 4).generation == 4
