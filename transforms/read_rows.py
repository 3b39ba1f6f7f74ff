"""ReadRows: a shard's row ranges of the input Parquet become batches of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facecap.schemas.options import Options, content
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import worker
from facecap.transforms.commit import finish, read_record
from facecap.transforms.store import Store

BATCH_SIZE = 32
"""Samples per batch: per-element overhead vanishes, 32 encoded photographs stay small."""


class InputOptions(Options):
    """Which columns of the input are what."""

    url_column: str | None = content(
        None, "column with the image URL; none: url, URL, image_url ... found by itself"
    )
    caption_column: str | None = content(
        None, "column with the alt text; none: caption, TEXT, text ... found by itself"
    )
    hash_column: str | None = content(
        None, "column with the image's md5, sha1, sha256 or sha512 in hex, to be checked; none: no"
    )


@dataclass(frozen=True)
class Columns:
    """The input's columns as planned: `extra` is passed through to the metadata, in these types."""

    url: str
    caption: str | None = None
    extra: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Of all columns that are read, by name."""
        text = [self.url] if self.caption is None else [self.url, self.caption]
        return {**dict.fromkeys(text, pa.string()), **{f.name: f.type for f in self.extra}}


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """`column` as `kind`, rounded where that is coarser. Raises pa.ArrowException."""
    # Whether a text is UTF-8 is looked at cell by cell, later.
    options = pc.CastOptions(
        kind, allow_time_truncate=True, allow_float_truncate=True, allow_invalid_utf8=True
    )
    return column.cast(options=options)


def to_python(column: pa.Array) -> list[Any]:
    """The cells as Python values. A text that is not UTF-8 has U+FFFD for what is wrong in it; a
    value that Python cannot hold (a year after 9999) is None: no cell is worth a shard."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        return [_cell(scalar) for scalar in column]
    return values


def _cell(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if isinstance(scalar, pa.StringScalar | pa.LargeStringScalar):
            return scalar.as_buffer().to_pybytes().decode(errors="replace")
        return None
    except (ValueError, OverflowError):
        return None


def read_range(part: InputRange, columns: Columns, batch_size: int) -> Iterator[dict[str, Any]]:
    """The rows of `part` in file order, as dicts of the planned columns (None where the file
    lacks one). Only the row groups that overlap the range are read."""
    with fsspec.open(part.path, "rb") as raw, pq.ParquetFile(raw) as file:
        types = columns.types
        present = [n for n in types if n in file.schema_arrow.names]
        missing = dict.fromkeys(types.keys() - set(present))
        groups, offset = _overlapping_row_groups(file.metadata, part)
        skip, left = part.start - offset, part.rows
        for table in file.iter_batches(batch_size=batch_size, row_groups=groups, columns=present):
            rows = table.slice(min(skip, len(table)), left)
            skip = max(0, skip - len(table))
            left -= len(rows)
            cells = [to_python(cast(rows.column(n), types[n])) for n in present]
            for row in zip(*cells, strict=True):
                yield {**missing, **dict(zip(present, row, strict=True))}
            if not left:
                return
        raise ValueError(f"{part.path}: {left} rows fewer than when the build was planned")


def _overlapping_row_groups(metadata: pq.FileMetaData, part: InputRange) -> tuple[list[int], int]:
    """Indices of the row groups that hold the range, and the file row where the first starts."""
    groups: list[int] = []
    first, start = part.start, 0
    for index in range(metadata.num_row_groups):
        end = start + metadata.row_group(index).num_rows
        if start < part.start + part.rows and end > part.start:
            if not groups:
                first = start
            groups.append(index)
        start = end
    return groups, first


def to_sample(row: int, values: Mapping[str, Any], columns: Columns) -> Sample:
    """One input row as a sample; a row without a URL is dropped here, and counted."""
    url = values[columns.url]
    caption = values[columns.caption] if columns.caption else None
    return Sample(
        row=row,
        url="" if url is None else str(url),
        source_caption=None if caption is None else str(caption),
        extra={name: values[name] for name in columns.extra.names},
        drop=None if url and str(url).strip() else Drop(Stage.READ, Reason.MISSING_URL),
    )


def read_shard(
    spec: ShardSpec, columns: Columns, batch_size: int, crashed: frozenset[int] = frozenset()
) -> Iterator[SampleBatch]:
    """The rows of a shard as batches. Rows in `crashed` (global numbers) crashed the process
    twice: they are dropped before anything touches them again. Where the input cannot be read,
    the last batch holds all rows that are left, and says so as its `failure`."""
    row, pending, failure = spec.first_row, [], None
    try:
        for values in _read_ranges(spec, columns, batch_size):
            sample = to_sample(row, values, columns)
            if row in crashed:
                drop = Drop(Stage.DECODE, Reason.DECODE_CRASHED)
                sample = Sample(row, sample.url, sample.source_caption, sample.extra, drop)
            pending.append(sample)
            row += 1
            if len(pending) == batch_size:
                yield SampleBatch(spec, tuple(pending))
                pending = []
    except (OSError, ValueError, pa.ArrowException) as error:
        failure = f"{Stage.READ}: {' '.join(str(error).split())[:300]}"
        pending += [Sample(left, "") for left in range(row, spec.first_row + spec.rows)]
    if pending:
        yield SampleBatch(spec, tuple(pending), failure)


def _read_ranges(spec: ShardSpec, columns: Columns, batch_size: int) -> Iterator[dict[str, Any]]:
    for part in spec.ranges:
        yield from read_range(part, columns, batch_size)


class ReadRowsFn(beam.DoFn):
    """Expands a shard spec inside its bundle; a committed shard yields nothing, so a retried
    bundle and a resumed build redo only what is missing."""

    def __init__(self, output: str, columns: Columns, run: worker.Run) -> None:
        self._output, self._columns, self._run = output, columns, run

    def setup(self) -> None:
        self._store = Store(self._output)
        worker.start(self._run)

    def process(self, spec: ShardSpec) -> Iterator[SampleBatch]:
        record = read_record(self._store, spec.number)
        if record is not None:
            finish(self._store, record)
            return
        spec = ShardSpec(spec[0], spec[1], tuple(InputRange(*r) for r in spec[2]))
        yield from read_shard(spec, self._columns, BATCH_SIZE, self._run.crashed_rows)


class ReadRows(beam.PTransform):
    """PCollection[ShardSpec] -> PCollection[SampleBatch]."""

    def __init__(self, output: str, columns: Columns, run: worker.Run) -> None:
        super().__init__()
        self._args = (output, columns, run)

    def expand(self, specs: beam.PCollection) -> beam.PCollection:
        return specs | beam.ParDo(ReadRowsFn(*self._args)).with_output_types(SampleBatch)
