"""WriteShard: spools the crops of a shard, and when all its rows are in, writes its files and
commits them. Nothing that varies between runs enters a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.outcomes import Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec, face_key
from facecap.schemas.tables import LEDGER, metadata_schema
from facecap.transforms import worker
from facecap.transforms.attempt import Attempt
from facecap.transforms.caption_columns import CaptionConfig, count_captions, too_few_answers
from facecap.transforms.commit import commit
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.object_store import open_store
from facecap.transforms.rejects import RejectSampler
from facecap.transforms.rows import ledger_row, metadata_row, to_json
from facecap.transforms.store import Store

log = logging.getLogger("facecap")

MAX_INTERNAL_ERRORS = 3
MAX_INTERNAL_ERROR_SHARE = 0.001


@dataclass(frozen=True)
class WriteConfig:
    """What WriteShard needs to know of the build: plain data, part of the graph.

    `extra` is the Arrow schema of the input's passed-through columns; `footer` is the JSON
    text that the Parquet footers hold under the key `facecap`; `min_answered` is
    `rewrite.min_answered`.
    """

    output: str
    fingerprint: str
    extra: pa.Schema
    footer: str
    reject_samples: int
    decode: DecodeOptions
    captions: CaptionConfig
    min_answered: float = 0.0


@dataclass(frozen=True)
class ShardResult:
    """What the line emits per shard: tiny. `error` says why the shard was not committed."""

    shard: int
    counts: Counts = field(default_factory=Counts)
    error: str | None = None


class ShardWriter:
    """One attempt at one shard: `add` its batches in any order, then `close` it."""

    def __init__(self, spec: ShardSpec, config: WriteConfig, store: Store) -> None:
        self.spec, self._config, self._store = spec, config, store
        self.failure: str | None = None
        self.rows = 0
        # The rows of a tar are known when its last batch is there.
        self._expected = None if spec.tar else spec.rows
        self._counts = Counts()
        self._ledger: dict[int, dict[str, Any]] = {}
        self._crops: list[tuple[str, dict[str, Any], int]] = []
        self._spool = store.spool()
        self._rejects = RejectSampler(spec, config.reject_samples, config.decode)

    @property
    def complete(self) -> bool:
        """Whether the batches seen account for all rows of the shard."""
        return self._expected is not None and self.rows >= self._expected

    def add(self, batch: SampleBatch) -> None:
        self.rows += len(batch)
        if batch.shard_rows is not None:
            self._expected = batch.shard_rows
        self.failure = self.failure or batch.failure
        if self.failure:
            return
        self._counts = Counts.total([self._counts, Counts.of(batch.samples)])
        for sample in batch.samples:
            self.failure = self._rejects.add(sample)
            if self.failure:
                return
            self._ledger[sample.row] = ledger_row(sample)
            for face in sample.faces:
                if face.drop is None and sample.drop is None:
                    self._spool_face(sample, face)

    def _spool_face(self, sample: Sample, face: Face) -> None:
        assert face.crop is not None  # it was kept
        key = face_key(self.spec.number, self.spec.first_row, sample.row, face.rank)
        number = self._spool.put(face.crop.jpeg)
        self._crops.append((key, metadata_row(key, sample, face, self._config.captions), number))

    def close(self) -> CommitRecord:
        """Write the files, check conservation, commit.

        Raises ShardFailed when a stage failed the shard, when it has too many internal errors
        or when its books do not balance.
        """
        if self.failure:
            raise ShardFailed(self.failure)
        spec, counts, rows = self.spec, self._counts, self._expected
        if rows is None:
            raise ShardFailed(f"closed after {self.rows} rows, without the last of its batches")
        expected = range(spec.first_row, spec.first_row + rows)
        if self.rows != rows or set(self._ledger) != set(expected) or not counts.balanced:
            raise ShardFailed(f"rows do not balance: {self.rows} seen of {rows}; {counts}")
        if counts.internal_errors > max(MAX_INTERNAL_ERRORS, MAX_INTERNAL_ERROR_SHARE * rows):
            raise ShardFailed(f"{counts.internal_errors} rows met an internal error")
        captions = count_captions(row["captions"] for _, row, _ in self._crops)
        if unanswered := too_few_answers(captions, self._config.min_answered):
            raise ShardFailed(unanswered)
        self._crops.sort(key=lambda crop: crop[0])
        schema = metadata_schema(self._config.extra)
        metadata = pa.Table.from_pylist([row for _, row, _ in self._crops], schema=schema)
        ledger = pa.Table.from_pylist([self._ledger[row] for row in expected], schema=LEDGER)
        attempt = Attempt(self._store, spec.number)
        attempt.write_tar("tar", self._samples())
        attempt.write_table("metadata", metadata, self._config.footer)
        attempt.write_table("ledger", ledger, self._config.footer)
        attempt.write_tar(
            "rejects", ({"__key__": key, **members} for key, members in self._rejects.members())
        )
        record = CommitRecord(
            shard=spec.number,
            attempt=attempt.name,
            fingerprint=self._config.fingerprint,
            files=attempt.files,
            counts=counts,
            captions=captions,
        )
        return commit(self._store, record)

    def abandon(self) -> None:
        """Free the spool; nothing else was written."""
        self._spool.close()

    def _samples(self) -> Iterator[dict[str, Any]]:
        for key, row, number in self._crops:
            yield {
                "__key__": key,
                "jpg": self._spool.get(number),
                "json": to_json(row),
                "txt": row["caption"].encode(),
            }


class ShardFailed(Exception):
    """The shard stays uncommitted; the message says why."""


class WriteShardFn(beam.DoFn):
    """Shards may interleave in a bundle; each closes as soon as its rows are all there."""

    def __init__(self, config: WriteConfig) -> None:
        self._config = config
        self._open: dict[int, ShardWriter] = {}

    def setup(self) -> None:
        self._store = open_store(self._config.output)

    def start_bundle(self) -> None:
        self._abandon()

    def process(self, batch: SampleBatch) -> Iterator[ShardResult]:
        number = batch.shard.number
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = ShardWriter(batch.shard, self._config, self._store)
        shard.add(batch)
        _report(batch)
        if shard.complete:
            del self._open[number]
            try:
                yield self._close(shard)
            finally:
                shard.abandon()

    def _close(self, shard: ShardWriter) -> ShardResult:
        number = shard.spec.number
        try:
            record = shard.close()
        except ShardFailed as failed:
            log.error("shard %06d stays uncommitted: %s", number, failed)
            return ShardResult(number, error=str(failed))
        for drops in (record.counts.rows_dropped, record.counts.faces_dropped):
            for name, value in drops.items():
                Metrics.counter("facecap", name).inc(value)
        return ShardResult(number, record.counts)

    def finish_bundle(self) -> None:
        if self._open:
            still = ", ".join(f"{n:06d}" for n in sorted(self._open))
            self._abandon()
            raise RuntimeError(f"the bundle ended before all rows of shard {still} arrived")

    def teardown(self) -> None:
        self._abandon()

    def _abandon(self) -> None:
        for shard in self._open.values():
            shard.abandon()
        self._open = {}


def _report(batch: SampleBatch) -> None:
    counts = Counts.of(batch.samples)
    worker.count(
        rows=counts.rows,
        attempted=counts.rows_after(Stage.READ),
        decoded=counts.rows_after(Stage.DECODE),
        faces=counts.faces,
        kept=counts.faces_kept,
    )


class WriteShard(beam.PTransform):
    """PCollection[SampleBatch] -> PCollection[ShardResult]."""

    def __init__(self, config: WriteConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.ParDo(WriteShardFn(self._config)).with_output_types(ShardResult)
