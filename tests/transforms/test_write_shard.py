"""Writing: equal bytes in any order of arrival, balanced books, and no commit when in doubt."""

from __future__ import annotations

import hashlib
import json
import math
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, ImageInfo, Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import rejects
from facecap.transforms.caption_columns import CaptionConfig
from facecap.transforms.commit import read_record
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.rejects import RejectSampler
from facecap.transforms.store import Store
from facecap.transforms.write_shard import (
    ShardFailed,
    ShardWriter,
    WriteConfig,
    WriteShardFn,
)
from tests.samples import face, random_sample

EXTRA = pa.schema([("similarity", pa.float64())])
BROKEN = Drop(Stage.CROP, Reason.INTERNAL_ERROR, "ArithmeticError 0123")


def config(output: Path, reject_samples: int = 2) -> WriteConfig:
    return WriteConfig(
        str(output), "f", EXTRA, "{}", reject_samples, DecodeOptions(), CaptionConfig()
    )


def spec(number: int, rows: int) -> ShardSpec:
    return ShardSpec(number, number * rows, (InputRange("x", 0, rows),))


def samples_of(shard: ShardSpec, seed: int) -> list[Sample]:
    rng = random.Random(seed)
    return [random_sample(shard.first_row + i, rng) for i in range(shard.rows)]


def write(output: Path, shard: ShardSpec, batches: list[list[Sample]]) -> CommitRecord:
    writer = ShardWriter(shard, config(output), Store(output))
    for batch in batches:
        assert not writer.complete
        writer.add(SampleBatch(shard, tuple(batch)))
    assert writer.complete
    return writer.close()


def batched(samples: list[Sample], size: int) -> list[list[Sample]]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), size=st.integers(1, 40), data=st.data())
def test_bytes_and_counts_depend_on_the_samples_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, size: int, data: st.DataObject
) -> None:
    shard = spec(2, rows)
    samples = samples_of(shard, seed)
    in_order = write(tmp_path_factory.mktemp("a"), shard, batched(samples, 32))
    shuffled = data.draw(st.permutations(samples))
    any_order = write(tmp_path_factory.mktemp("b"), shard, batched(list(shuffled), size))
    assert any_order.files == in_order.files
    assert any_order.counts == in_order.counts == Counts.of(samples)
    assert in_order.counts.balanced and in_order.counts.rows == rows
    assert in_order.counts.faces == sum(len(s.faces) for s in samples)


def test_the_record_names_the_bytes_that_are_there(tmp_path: Path) -> None:
    record = write(tmp_path, spec(0, 20), batched(samples_of(spec(0, 20), 1), 7))
    for entry in record.files.values():
        data = (tmp_path / entry.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
    ledger = pq.read_table(tmp_path / record.files["ledger"].path)
    assert ledger["row"].to_pylist() == list(range(20))


def test_an_empty_shard_still_has_all_its_files(tmp_path: Path) -> None:
    shard = spec(0, 3)
    samples = [Sample(i, "u", drop=Drop(Stage.DOWNLOAD, Reason.DNS)) for i in range(3)]
    record = write(tmp_path, shard, [samples])
    assert all((tmp_path / e.path).exists() for e in record.files.values())
    assert pq.read_table(tmp_path / record.files["metadata"].path).num_rows == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: [*rows[:-1], rows[0]],
        lambda rows: [*rows[:-1], replace(rows[-1], row=10**6)],
        lambda rows: [*rows, rows[0]],
    ],
    ids=["duplicate", "foreign row", "one too many"],
)
def test_books_that_do_not_balance_are_never_committed(tmp_path: Path, spoil) -> None:
    shard = spec(0, 8)
    writer = ShardWriter(shard, config(tmp_path), Store(tmp_path))
    writer.add(SampleBatch(shard, tuple(spoil(samples_of(shard, 3)))))
    with pytest.raises(ShardFailed, match="do not balance"):
        writer.close()
    assert read_record(Store(tmp_path), 0) is None
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("rows", "errors", "fails"),
    [(100, 3, False), (100, 4, True), (5000, 5, False), (5000, 6, True)],
)
def test_a_few_internal_errors_are_rows_many_fail_the_shard(
    tmp_path: Path, rows: int, errors: int, fails: bool
) -> None:
    shard = spec(0, rows)
    fetch = Drop(Stage.DOWNLOAD, Reason.DNS)
    samples = [Sample(i, "u", drop=BROKEN if i < errors else fetch) for i in range(rows)]
    writer = ShardWriter(shard, config(tmp_path), Store(tmp_path))
    writer.add(SampleBatch(shard, tuple(samples)))
    if fails:
        with pytest.raises(ShardFailed, match=f"{errors} rows met an internal error"):
            writer.close()
    else:
        assert writer.close().counts.internal_errors == errors


def test_a_failed_shard_stays_uncommitted_and_the_others_go_on(tmp_path: Path) -> None:
    fn = WriteShardFn(config(tmp_path))
    fn.setup()
    fn.start_bundle()
    bad, good = spec(0, 8), spec(1, 8)
    results = []
    # Interleaved, as the downloader delivers them.
    for one, two in zip(
        batched(samples_of(bad, 1), 2), batched(samples_of(good, 2), 2), strict=True
    ):
        failure = "detect: ImportError 12" if one[0].row == 2 else None
        results += list(fn.process(SampleBatch(bad, tuple(one), failure)))
        results += list(fn.process(SampleBatch(good, tuple(two))))
    fn.finish_bundle()
    assert [(r.shard, r.error) for r in results] == [(0, "detect: ImportError 12"), (1, None)]
    assert read_record(Store(tmp_path), 0) is None
    assert read_record(Store(tmp_path), 1) is not None


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_a_defect_in_rejects_fails_its_shard_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    decode = rejects.decode
    bad, good = spec(0, 8), spec(1, 8)
    bodies = {s.fetched.body for s in samples_of(bad, 1) if s.fetched}

    def broken(body: bytes, *rest: Any, **more: Any) -> Any:
        if body in bodies:
            raise kind("a defect")
        return decode(body, *rest, **more)

    monkeypatch.setattr(rejects, "decode", broken)
    fn = WriteShardFn(config(tmp_path))
    fn.setup()
    fn.start_bundle()
    results = []
    for shard, seed in ((bad, 1), (good, 2)):
        for samples in batched(samples_of(shard, seed), 3):
            results += list(fn.process(SampleBatch(shard, tuple(samples))))
    fn.finish_bundle()
    failed, done = results
    assert failed.error is not None and failed.error.startswith(f"rejects: decode: {kind.__name__}")
    assert done.error is None
    assert [read_record(Store(tmp_path), n) is None for n in (0, 1)] == [True, False]


def test_the_json_of_a_face_is_json_whatever_the_inputs_columns_hold(tmp_path: Path) -> None:
    extra = pa.schema([("similarity", pa.float64()), ("blob", pa.binary())])
    shard = spec(0, 1)
    one = Sample(
        0,
        "u",
        extra={"similarity": math.nan, "blob": b"\x00\xff"},
        fetched=Fetched(200, b"", "ab"),
        image=ImageInfo("JPEG", 48, 48),
        faces=(face(0),),
    )
    writer = ShardWriter(shard, replace(config(tmp_path), extra=extra), Store(tmp_path))
    writer.add(SampleBatch(shard, (one,)))
    record = writer.close()
    with tarfile.open(tmp_path / record.files["tar"].path) as tar:
        member = tar.extractfile("000000000000_00.json")
        assert member is not None
        about = json.load(member)
    assert (about["similarity"], about["blob"]) == (None, "00ff")


def test_a_bundle_that_ends_with_an_open_shard_is_an_error(tmp_path: Path) -> None:
    fn = WriteShardFn(config(tmp_path))
    fn.setup()
    fn.start_bundle()
    shard = spec(4, 8)
    assert list(fn.process(SampleBatch(shard, tuple(samples_of(shard, 1)[:5])))) == []
    with pytest.raises(RuntimeError, match="shard 000004"):
        fn.finish_bundle()
    fn.start_bundle()
    fn.finish_bundle()


def test_a_second_attempt_gets_the_first_ones_counts(tmp_path: Path) -> None:
    shard = spec(0, 12)
    first = write(tmp_path, shard, [samples_of(shard, 1)])
    again = write(tmp_path, shard, [samples_of(shard, 1)])
    assert again == first
    assert not any((tmp_path / "_attempts").iterdir())


def test_rejects_are_at_most_so_many_per_reason(tmp_path: Path) -> None:
    shard = spec(0, 120)
    samples = samples_of(shard, 9)
    sampler = RejectSampler(shard, 2, DecodeOptions())
    for sample in samples:
        sampler.add(sample)
    chosen = sampler.members()
    assert [k for k, _ in chosen] == sorted(k for k, _ in chosen)
    by_reason: dict[str, int] = {}
    for _, members in chosen:
        reason = json.loads(members["json"])["reason"]
        by_reason[reason] = by_reason.get(reason, 0) + 1
    assert by_reason == {"no_face": 2, "too_small": 2, "low_score": 2, "few_labels": 2}
    backwards = RejectSampler(shard, 2, DecodeOptions())
    for sample in reversed(samples):
        backwards.add(sample)
    assert backwards.members() == chosen
