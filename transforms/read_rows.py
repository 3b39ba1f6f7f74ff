"""ReadRows: a shard's row ranges of the input Parquet become batches of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facecap.schemas.options import Options, content, run
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import worker
from facecap.transforms.commit import finish, read_record
from facecap.transforms.object_store import open_store
from facecap.transforms.where import Where

BATCH_SIZE = 8
"""Samples per batch. Of more the decoded images do not fit `pixels`: at 16 a tenth of the decoding
was done again (docs/decisions.md)."""

ROWS_PER_READ = 1024
"""Rows that Arrow hands over at once, and over which `input.where` is evaluated: a query costs 3 ms
whatever it looks at, and rows in front of a shard in its row group are skipped faster. Many more
would let a list of long, well compressed cells fill the memory."""


class InputOptions(Options):
    """Which columns of the input are what, and which rows are wanted."""

    url_column: str | None = content(
        None, "column with the image URL; none: url, URL, image_url ... found by itself"
    )
    caption_column: str | None = content(
        None, "column with the alt text; none: caption, TEXT, text ... found by itself"
    )
    hash_column: str | None = content(
        None, "column with the image's md5, sha1, sha256 or sha512 in hex, to be checked; none: no"
    )
    where: str | None = content(
        None,
        "SQL condition over the input's columns, e.g. punsafe < 0.5 AND NSFW = 'UNLIKELY'; rows "
        "for which it is false or NULL are dropped as filtered",
    )
    sample_ids: str | None = run(  # the ids enter the fingerprint, not where they lie
        None,
        "list of the SAMPLE_IDs to build from: LAION-Face's .pth, or .npy, .parquet, .txt, .csv; a "
        "file, folder or glob; none: all rows",
    )
    id_column: str | None = content(
        None, "column that input.sample_ids is about; none: SAMPLE_ID, sample_id found by itself"
    )


@dataclass(frozen=True)
class Columns:
    """The input's columns as planned: `extra` is passed through to the metadata, in these types;
    `where` is the condition that a row must satisfy."""

    url: str
    caption: str | None = None
    extra: pa.Schema = field(default_factory=lambda: pa.schema([]))
    where: Where | None = None

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


class InputRow(NamedTuple):
    """A row by column name, and whether it satisfies `Columns.where` (None where SQL says NULL)."""

    values: dict[str, Any]
    satisfied: bool | None = True


def read_range(part: InputRange, columns: Columns, batch_size: int) -> Iterator[InputRow]:
    """The rows of `part` in file order, with the planned columns (None where the file lacks one).
    Only the row groups that overlap the range are read."""
    with fsspec.open(part.path, "rb") as raw, pq.ParquetFile(raw) as file:
        present = [n for n in columns.types if n in file.schema_arrow.names]
        groups, offset = _overlapping_row_groups(file.metadata, part)
        skip, left = part.start - offset, part.rows
        for batch in file.iter_batches(
            batch_size=ROWS_PER_READ, row_groups=groups, columns=present
        ):
            rows = batch.slice(min(skip, len(batch)), left)
            skip = max(0, skip - len(batch))
            left -= len(rows)
            if len(rows):
                yield from _input_rows(rows, columns, batch_size)
            if not left:
                return
        raise ValueError(f"{part.path}: {left} rows fewer than when the build was planned")


def _input_rows(rows: pa.RecordBatch, columns: Columns, batch_size: int) -> Iterator[InputRow]:
    types, present = columns.types, rows.schema.names
    missing = dict.fromkeys(types.keys() - set(present))
    cast_rows = {name: cast(rows.column(name), types[name]) for name in present}
    satisfied: list[bool | None] = [True] * len(rows)
    if columns.where is not None:
        satisfied = columns.where.satisfied(_where_table(cast_rows, columns, len(rows)))
    for start in range(0, len(rows), batch_size):
        cells = [to_python(column.slice(start, batch_size)) for column in cast_rows.values()]
        verdicts = satisfied[start : start + batch_size]
        for row, verdict in zip(zip(*cells, strict=True), verdicts, strict=True):
            yield InputRow({**missing, **dict(zip(present, row, strict=True))}, verdict)


def _where_table(rows: Mapping[str, pa.Array], columns: Columns, count: int) -> pa.Table:
    """What the condition looks at, in the planned types and sound UTF-8."""
    assert columns.where is not None
    types = columns.types
    table = {}
    for name in columns.where.columns:
        column = rows.get(name)
        if column is None:
            column = pa.nulls(count, types[name])
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            column = pa.array(to_python(column), types[name])
        table[name] = column
    return pa.table(table)


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


def to_sample(row: int, input_row: InputRow, columns: Columns) -> Sample:
    """One input row as a sample; a row without a URL, or that does not satisfy the condition, is
    dropped here, and counted."""
    values, satisfied = input_row
    url = values[columns.url]
    caption = values[columns.caption] if columns.caption else None
    drop = None
    if not url or not str(url).strip():
        drop = Drop(Stage.READ, Reason.MISSING_URL)
    elif not satisfied:
        drop = filtered(satisfied)
    return Sample(
        row=row,
        url="" if url is None else str(url),
        source_caption=None if caption is None else str(caption),
        extra={name: values[name] for name in columns.extra.names},
        drop=drop,
    )


def filtered(satisfied: bool | None) -> Drop:
    """The drop of a row for which the condition is false, or NULL."""
    return Drop(Stage.READ, Reason.FILTERED, "NULL" if satisfied is None else None)


def read_shard(
    spec: ShardSpec, columns: Columns, batch_size: int, crashed: frozenset[int] = frozenset()
) -> Iterator[SampleBatch]:
    """The rows of a shard as batches. Rows in `crashed` (global numbers) crashed the process
    twice: they are dropped before anything touches them again. Where the input cannot be read,
    the last batch holds all rows that are left, and says so as its `failure`."""
    row, pending, failure = spec.first_row, [], None
    try:
        for input_row in _read_ranges(spec, columns, batch_size):
            sample = to_sample(row, input_row, columns)
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


def _read_ranges(spec: ShardSpec, columns: Columns, batch_size: int) -> Iterator[InputRow]:
    for part in spec.ranges:
        yield from read_range(part, columns, batch_size)


class ExpandFn(beam.DoFn):
    """Expands a shard spec by `read` inside its bundle; a committed shard yields nothing, so a
    retried bundle and a resumed build redo only what is missing."""

    def __init__(
        self, output: str, run: worker.Run, read: Callable[[ShardSpec], Iterator[SampleBatch]]
    ) -> None:
        self._output, self._run, self._read = output, run, read

    def setup(self) -> None:
        self._store = open_store(self._output)
        worker.start(self._run)

    def process(self, spec: ShardSpec) -> Iterator[SampleBatch]:
        record = read_record(self._store, spec.number)
        if record is not None:
            finish(self._store, record)
            return
        # Beam's coder makes plain tuples of them.
        ranges = tuple(InputRange(*r) for r in spec[2])
        yield from self._read(ShardSpec(spec[0], spec[1], ranges, spec[3]))


class ReadRows(beam.PTransform):
    """PCollection[ShardSpec] -> PCollection[SampleBatch]."""

    def __init__(
        self, output: str, columns: Columns, run: worker.Run, batch_size: int = BATCH_SIZE
    ) -> None:
        super().__init__()
        read = partial(read_shard, columns=columns, batch_size=batch_size, crashed=run.crashed_rows)
        self._fn = ExpandFn(output, run, read)

    def expand(self, specs: beam.PCollection) -> beam.PCollection:
        return specs | beam.ParDo(self._fn).with_output_types(SampleBatch)
