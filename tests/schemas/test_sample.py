"""Samples: who is still in the line, and which drop is the row's."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.schemas.outcomes import Drop, Outcome, Reason, Stage
from facecap.schemas.sample import Fetched, Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from tests.samples import FACE_DROPS, face

TOO_SMALL, LOW_SCORE, FEW_LABELS = FACE_DROPS
NOTHING = Drop(Stage.CAPTION, Reason.NOTHING_TO_STATE)
BROKEN = Drop(Stage.CROP, Reason.INTERNAL_ERROR, "ValueError 12")


def sample(*drops: Drop | None, drop: Drop | None = None) -> Sample:
    """A sample with a face per entry of `drops`, the largest first."""
    return Sample(
        7, "u", drop=drop, faces=tuple(face(rank, drop=d) for rank, d in enumerate(drops))
    )


@pytest.mark.parametrize(
    ("drops", "final"),
    [
        ([TOO_SMALL], TOO_SMALL),
        ([TOO_SMALL, FEW_LABELS], FEW_LABELS),
        ([FEW_LABELS, TOO_SMALL, NOTHING, TOO_SMALL], NOTHING),
        ([LOW_SCORE, TOO_SMALL], LOW_SCORE),
        ([TOO_SMALL, LOW_SCORE], TOO_SMALL),
        ([TOO_SMALL, None], None),
    ],
)
def test_the_rows_drop_is_that_of_the_face_that_got_furthest(
    drops: list[Drop | None], final: Drop | None
) -> None:
    row = sample(*drops)
    assert row.final_drop == final
    assert row.outcome == (Outcome.DROPPED if final else Outcome.KEPT)
    assert replace(row, faces=row.faces[::-1]).final_drop == final


def test_a_drop_of_the_whole_row_wins_over_its_faces() -> None:
    row = sample(None, FEW_LABELS, drop=BROKEN)
    assert (row.final_drop, row.outcome, row.live) == (BROKEN, Outcome.DROPPED, False)


def test_a_row_is_live_until_it_or_its_last_face_is_dropped() -> None:
    assert sample().live
    assert sample(TOO_SMALL, None).live
    assert not sample(TOO_SMALL, LOW_SCORE).live
    assert not sample(drop=BROKEN).live


@given(
    drops=st.lists(st.sampled_from([None, NOTHING, *FACE_DROPS]), min_size=1, max_size=5),
    own=st.sampled_from([None, BROKEN]),
)
def test_a_finished_row_is_kept_or_has_a_drop_never_both(
    drops: list[Drop | None], own: Drop | None
) -> None:
    row = sample(*drops, drop=own)
    assert (row.outcome is Outcome.KEPT) == (row.final_drop is None)


def test_the_side_of_a_face_is_its_short_one() -> None:
    assert replace(face(0), box=(10.0, 20.0, 50.5, 90.0)).side == 40.5


def test_a_batch_knows_the_bytes_it_holds_and_travels() -> None:
    spec = ShardSpec(3, 30, (InputRange("x", 0, 3), InputRange("y", 5, 1)))
    samples = (
        Sample(30, "u", fetched=Fetched(200, b"12345", "ab")),
        Sample(31, "u", fetched=Fetched(404)),
        Sample(32, "u"),
    )
    batch = SampleBatch(spec, samples)
    assert (len(batch), batch.nbytes) == (3, 5)
    assert pickle.loads(pickle.dumps(batch)) == batch
