"""WriteShard: spools the crops of a shard, and when all its rows are in, writes its files and
commits them. Nothing that varies between runs enters a file."""

from __future__ import annotations

import logging
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics
from webdataset.writer import TarWriter

from facecap.schemas.commit import CommitRecord, Counts, FileEntry
from facecap.schemas.outcomes import Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec, face_key, shard_file
from facecap.schemas.tables import LEDGER, metadata_schema
from facecap.transforms import worker
from facecap.transforms.commit import attempt_file, commit
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.object_store import open_store
from facecap.transforms.rejects import RejectSampler
from facecap.transforms.rows import ledger_row, metadata_row, to_json
from facecap.transforms.store import HashedFile, Store

log = logging.getLogger("facecap")

MAX_INTERNAL_ERRORS = 3
MAX_INTERNAL_ERROR_SHARE = 0.001


@dataclass(frozen=True)
class WriteConfig:
    """What WriteShard needs to know of the build: plain data, part of the graph.

    `extra` is the Arrow schema of the input's passed-through columns; `footer` is the JSON
    text that the Parquet footers hold under the key `facecap`.
    """

    output: str
    fingerprint: str
    extra: pa.Schema
    footer: str
    reject_samples: int
    decode: DecodeOptions


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
        self._files: dict[str, FileEntry] = {}
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
        self._crops.append((key, metadata_row(key, sample, face), number))

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
        attempt = f"{spec.name}-{uuid.uuid4().hex}"
        self._crops.sort(key=lambda crop: crop[0])
        self._write_tar(attempt)
        faces = [row for _, row, _ in self._crops]
        self._write_table(attempt, "metadata", faces, metadata_schema(self._config.extra))
        self._write_table(attempt, "ledger", [self._ledger[row] for row in expected], LEDGER)
        self._write_rejects(attempt)
        record = CommitRecord(
            shard=spec.number,
            attempt=attempt,
            fingerprint=self._config.fingerprint,
            files=self._files,
            counts=counts,
        )
        return commit(self._store, record)

    def abandon(self) -> None:
        """Free the spool; nothing else was written."""
        self._spool.close()

    @contextmanager
    def _new_file(self, attempt: str, kind: str) -> Iterator[HashedFile]:
        with self._store.write(attempt_file(attempt, kind)) as file:
            yield file
        self._files[kind] = file.entry(shard_file(kind, self.spec.number))

    def _write_tar(self, attempt: str) -> None:
        with self._new_file(attempt, "tar") as file, _tar(file) as tar:
            for key, row, number in self._crops:
                tar.write(
                    {
                        "__key__": key,
                        "jpg": self._spool.get(number),
                        "json": to_json(row),
                        "txt": row["caption"].encode(),
                    }
                )

    def _write_rejects(self, attempt: str) -> None:
        with self._new_file(attempt, "rejects") as file, _tar(file) as tar:
            for key, members in self._rejects.members():
                tar.write({"__key__": key, **members})

    def _write_table(
        self, attempt: str, kind: str, rows: list[dict[str, Any]], schema: pa.Schema
    ) -> None:
        schema = schema.with_metadata({"facecap": self._config.footer})
        table = pa.Table.from_pylist(rows, schema=schema)
        with self._new_file(attempt, kind) as file:
            # One call, one row group: the flush size would change the bytes.
            pq.write_table(table, file, compression="zstd", row_group_size=max(1, len(rows)))


class ShardFailed(Exception):
    """The shard stays uncommitted; the message says why."""


def _tar(file: Any) -> TarWriter:
    tar = TarWriter(file, user="facecap", group="facecap", mode=0o444, mtime=0, encoder=False)
    # Its own stream mode copies every member three times, in pieces of 10 KB.
    tar.tarstream = tarfile.TarFile(fileobj=file, mode="w", copybufsize=1 << 24)
    return tar


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
