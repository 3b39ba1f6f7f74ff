"""Counts that balance and add up; records that are read back or refused by name."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.schemas.commit import CommitRecord, Counts, FileEntry
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample
from tests.samples import FACE_DROPS, face, random_sample

SAMPLES = [random_sample(row, random.Random(row)) for row in range(60)]
SAMPLES += [
    replace(sample, drop=Drop(Stage.CROP, Reason.INTERNAL_ERROR, "x"))
    for sample in SAMPLES
    if sample.faces
]

some_samples = st.lists(st.sampled_from(SAMPLES), max_size=30)


@given(one=some_samples, two=some_samples)
def test_counts_balance_and_add_up(one: list[Sample], two: list[Sample]) -> None:
    whole = Counts.of([*one, *two])
    assert whole == Counts.total([Counts.of(one), Counts.of(two)])
    assert whole == Counts.total([Counts.of(two), Counts.of(one)])
    assert whole.balanced
    assert whole.rows == len(one) + len(two)
    assert whole.faces == sum(len(s.faces) for s in (*one, *two))
    assert whole.rows_after(Stage.CAPTION) == whole.rows_kept
    assert whole.faces_after(Stage.CAPTION) == whole.faces_kept
    left = [whole.rows_after(stage) for stage in Stage]
    assert left == sorted(left, reverse=True)
    assert whole.internal_errors == sum(
        s.drop is not None and s.drop.reason is Reason.INTERNAL_ERROR for s in (*one, *two)
    )


def test_every_outcome_is_counted_where_it_belongs() -> None:
    small, _, few = FACE_DROPS
    broken = Drop(Stage.CAPTION, Reason.INTERNAL_ERROR)
    counts = Counts.of(
        [
            Sample(0, "u", faces=(face(0), face(1, small), face(2, few))),
            Sample(1, "u", faces=(face(0, few), face(1, small))),
            Sample(2, "u", drop=Drop(Stage.DOWNLOAD, Reason.DNS)),
            Sample(3, "u", drop=broken, faces=(face(0), face(1, small))),
        ]
    )
    assert counts == Counts(
        rows=4,
        rows_kept=1,
        faces=7,
        faces_kept=1,
        rows_dropped={
            "attributes/few_labels": 1,
            "caption/internal_error": 1,
            "download/dns": 1,
        },
        faces_dropped={
            "attributes/few_labels": 2,
            "caption/internal_error": 1,
            "crop/too_small": 3,
        },
    )


@pytest.mark.parametrize("name", ["rows", "rows_kept", "faces", "faces_kept"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_lost_or_invented_row_or_face_is_noticed(name: str, by: int) -> None:
    counts = Counts.of(SAMPLES)
    assert counts.balanced
    assert not counts.model_copy(update={name: getattr(counts, name) + by}).balanced


def test_kept_rows_need_kept_faces() -> None:
    assert not Counts(rows=1, rows_kept=1).balanced


RECORD = CommitRecord(
    shard=3,
    attempt="000003-ab",
    fingerprint="f",
    files={"tar": FileEntry(path="shards/000003.tar", bytes=5, sha256="aa")},
    counts=Counts.of(SAMPLES),
)


def test_a_record_is_read_back_and_has_one_form() -> None:
    assert CommitRecord.from_json(RECORD.to_json(), "x") == RECORD
    assert CommitRecord.from_json(RECORD.to_json(), "x").to_json() == RECORD.to_json()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        RECORD.to_json()[:-10],
        RECORD.to_json().replace(b'"shard": 3', b'"shard": "x"'),
        RECORD.to_json().replace(b'"shard": 3', b'"shard": 3, "more": 1'),
        RECORD.to_json().replace(b"000003-ab", b"../../x"),
        RECORD.to_json().replace(b"000003-ab", b"000003-a/../.."),
        RECORD.to_json().replace(b"000003-ab", b"000003-ab\\n"),
        RECORD.to_json().replace(b"000003-ab", b""),
    ],
)
def test_a_damaged_record_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"commits/3\.json: not a commit record") as refused:
        CommitRecord.from_json(data, "commits/3.json")
    assert "\n" not in str(refused.value)
