"""Regrouping: every row comes back once, whatever the order of the answers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms.regroup import Regrouper

SPECS = [ShardSpec(k, 1000 * k, (InputRange("x", 1000 * k, 1000),)) for k in range(4)]
MISSING = Drop(Stage.READ, Reason.MISSING_URL)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_regrouping_gives_every_row_back_once(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    regrouper = Regrouper(size)
    waiting: list[tuple[int, Sample]] = []
    given_rows: Counter[int] = Counter()
    got: list[SampleBatch] = []
    row = 0
    for _ in range(data.draw(st.integers(0, 8))):
        shard = data.draw(st.integers(0, 3))
        drops = data.draw(st.lists(st.booleans(), max_size=10))
        samples = tuple(
            Sample(row + i, "http://x/", drop=MISSING if dropped else None)
            for i, dropped in enumerate(drops)
        )
        row += len(samples)
        given_rows.update(sample.row for sample in samples)
        live = regrouper.add(SampleBatch(SPECS[shard], samples))
        waiting += [(shard, sample) for sample in live]
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            at = data.draw(st.integers(0, len(waiting) - 1))
            finished_shard, sample = waiting.pop(at)
            failure = "download: TypeError" if data.draw(st.integers(0, 9)) == 0 else None
            regrouper.settle(finished_shard, sample, failure)
        got += regrouper.batches(partial=data.draw(st.booleans()))
    for shard, sample in waiting:
        regrouper.settle(shard, sample, None)
    got += regrouper.batches()
    assert list(regrouper.batches(partial=True)) == []
    assert Counter(s.row for batch in got for s in batch.samples) == given_rows
    assert all(1 <= len(batch) <= size for batch in got)


def test_a_shard_is_flushed_when_nothing_of_it_is_in_flight() -> None:
    regrouper = Regrouper(10)
    samples = tuple(Sample(row, "http://x/") for row in range(3))
    live = regrouper.add(SampleBatch(SPECS[0], samples))
    regrouper.add(SampleBatch(SPECS[1], samples[:1]))
    regrouper.settle(0, live[2], None)
    assert list(regrouper.batches()) == []
    regrouper.settle(0, live[0], None)
    regrouper.settle(0, live[1], None)
    (batch,) = regrouper.batches()
    assert batch.shard == SPECS[0] and [s.row for s in batch.samples] == [2, 0, 1]


def test_the_number_of_a_tars_rows_goes_on_at_once() -> None:
    regrouper = Regrouper(10)
    samples = tuple(Sample(row, "http://x/") for row in range(2))
    regrouper.add(SampleBatch(SPECS[0], samples[:1]))
    live = regrouper.add(SampleBatch(SPECS[0], samples[1:], shard_rows=2))
    (counted,) = regrouper.batches()
    assert counted == SampleBatch(SPECS[0], (), shard_rows=2)
    for sample in (samples[0], *live):
        regrouper.settle(0, sample)
    (batch,) = regrouper.batches()
    assert len(batch) == 2 and batch.shard_rows is None
