"""Puts samples whose answers come in any order into new batches, so that none waits for a slow
one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import ShardSpec


@dataclass
class _OpenShard:
    """A shard of which rows are in flight or wait for their batch to fill."""

    spec: ShardSpec
    in_flight: int = 0
    ready: deque[Sample] = field(default_factory=deque)


class Regrouper:
    """Puts finished samples into new batches, by shard, in the order they finish."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._shards: dict[int, _OpenShard] = {}
        self._failed: list[SampleBatch] = []
        self._counted: list[SampleBatch] = []

    def add(self, batch: SampleBatch) -> list[Sample]:
        """Take in a batch; returns the live samples, each to be given to `settle`. The number of a
        shard's rows, which the last batch of a tar brings, goes on at once."""
        if batch.shard_rows is not None:
            self._counted.append(replace(batch, samples=()))
        shard = self._shards.setdefault(batch.shard.number, _OpenShard(batch.shard))
        live = [sample for sample in batch.samples if sample.live]
        shard.ready.extend(sample for sample in batch.samples if not sample.live)
        shard.in_flight += len(live)
        return live

    def settle(self, number: int, sample: Sample, failure: str | None = None) -> None:
        """Take back a sample of shard `number`; `failure` is what its batch must carry."""
        shard = self._shards[number]
        shard.in_flight -= 1
        if failure:
            self._failed.append(SampleBatch(shard.spec, (sample,), failure))
        else:
            shard.ready.append(sample)

    def batches(self, *, partial: bool = False) -> Iterator[SampleBatch]:
        """Full batches, and what is left of shards with nothing in flight (`partial`: of all
        shards)."""
        for waiting in (self._failed, self._counted):
            while waiting:
                yield waiting.pop()
        for number, shard in list(self._shards.items()):
            while len(shard.ready) >= self._batch_size:
                yield self._batch(shard)
            if shard.ready and (partial or not shard.in_flight):
                yield self._batch(shard)
            if not shard.in_flight and not shard.ready:
                del self._shards[number]

    def _batch(self, shard: _OpenShard) -> SampleBatch:
        size = min(self._batch_size, len(shard.ready))
        return SampleBatch(shard.spec, tuple(shard.ready.popleft() for _ in range(size)))
