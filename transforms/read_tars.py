"""ReadTars: the WebDataset tars that img2dataset wrote become batches of samples whose images are
there already. One tar is one shard; its rows are counted while they are read."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any

import apache_beam as beam
import fsspec
import pyarrow as pa

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, Sample, SampleBatch
from facecap.schemas.shard import MAX_ROWS_PER_SHARD, ShardSpec
from facecap.transforms import worker
from facecap.transforms.read_rows import BATCH_SIZE, ExpandFn, filtered
from facecap.transforms.tar_columns import MAX_TEXT_BYTES, TarColumns, parse_fields, to_cell
from facecap.transforms.tar_members import Damage, End, Member, members

log = logging.getLogger("facecap")

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif")
MAX_BATCH_BYTES = 64 << 20
PEEKED_ROWS = 200

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)\Z", re.DOTALL)
"""webdataset's: all up to the first dot of the file's name; what follows says what it is."""


@dataclass(slots=True)
class Row:
    """The members of one key. Where it has several images the first is taken."""

    key: str | None = None
    image: Member | None = None
    image_kind: str | None = None
    json: Member | None = None
    text: Member | None = None
    damage: str | None = None

    def takes(self, kind: str) -> bool:
        """Whether a member of this kind may belong to the row: a second one of a name does not."""
        if kind == "json":
            return self.json is None
        if kind == "txt":
            return self.text is None
        return self.image_kind != kind

    def add(self, kind: str, member: Member) -> None:
        if kind == "json":
            self.json = member
        elif kind == "txt":
            self.text = member
        elif self.image is None:
            self.image, self.image_kind = member, kind


def rows_of(file: IO[bytes], max_bytes: int) -> Iterator[Row]:
    """The rows of a tar: consecutive members of one key, so that what belongs to different rows is
    never mixed. A name that comes again begins a new row. Damage ends the row it is found in; where
    there is none it is a row of its own, so that no loss goes uncounted. Raises OSError."""
    row: Row | None = None
    for found in members(file, max(max_bytes, MAX_TEXT_BYTES)):
        if isinstance(found, Damage):
            row = row or Row()
            row.damage = found.what
        if isinstance(found, Damage | End):
            if row is not None:
                yield row
            row = None
            continue
        key, kind = key_and_kind(found.name)
        if key is None:
            continue
        if row is not None and (row.key != key or not row.takes(kind)):
            yield row
            row = None
        row = row or Row(key)
        row.add(kind, found)
    if row is not None:
        yield row


def key_and_kind(name: str) -> tuple[str | None, str]:
    """The key of a member, None when it is part of no row, and its extension in lower case."""
    match = _KEY.match(name)
    kind = match[2].lower() if match else ""
    return (match[1] if match and kind in (*IMAGES, "json", "txt") else None), kind


def peek(path: str, max_bytes: int) -> list[dict[str, Any]]:
    """The JSON objects of the first PEEKED_ROWS rows of a tar. Raises OSError."""
    with fsspec.open(path, "rb") as file:
        rows = itertools.islice(rows_of(file, max_bytes), PEEKED_ROWS)
        return [parse_fields(row.json.data) or {} for row in rows if row.json]


def to_sample(number: int, row: Row, columns: TarColumns, max_bytes: int) -> Sample:
    """A row as a sample with global row `number`: its image fetched, or the reason why not."""
    parsed = parse_fields(row.json.data if row.json else None)
    fields = parsed or {}
    url = fields.get(columns.url)
    caption = fields.get(columns.caption or "caption")
    text = None if row.text is None else row.text.data
    if columns.caption is None and text is not None and len(text) <= MAX_TEXT_BYTES:
        caption = text.decode(errors="replace")
    sample = Sample(
        row=number,
        url=url if type(url) is str else "",
        source_caption=caption if type(caption) is str else None,
        extra={f.name: _cell(fields.get(f.name), f) for f in columns.extra},
    )
    if row.damage is not None:
        return _dropped(sample, Stage.READ, Reason.DAMAGED_TAR, row.damage)
    if row.json is not None and parsed is None:
        return _dropped(sample, Stage.READ, Reason.BAD_METADATA)
    if not sample.url.strip():
        return _dropped(sample, Stage.READ, Reason.MISSING_URL)
    if row.image is None:
        return _dropped(sample, Stage.READ, Reason.MISSING_IMAGE)
    if row.image.size > max_bytes:
        return _dropped(sample, Stage.DOWNLOAD, Reason.TOO_LARGE)
    body = row.image.data
    if body is None:
        return _dropped(sample, Stage.READ, Reason.MISSING_IMAGE, "sparse member")
    if not body:
        return _dropped(sample, Stage.DOWNLOAD, Reason.EMPTY_BODY)
    return replace(sample, fetched=Fetched(body=body, sha256=hashlib.sha256(body).hexdigest()))


def _dropped(sample: Sample, stage: Stage, reason: Reason, error: str | None = None) -> Sample:
    return replace(sample, drop=Drop(stage, reason, error))


_told: set[str] = set()


def _cell(value: Any, field: pa.Field) -> Any:
    cell = to_cell(value, field.type)
    if cell is None and value is not None and field.name not in _told:
        _told.add(field.name)
        log.warning(
            "column %r is %s in the first rows of the input; values that are not become null",
            field.name,
            field.type,
        )
    return cell


def read_tar(
    spec: ShardSpec,
    columns: TarColumns,
    max_bytes: int,
    batch_size: int,
    crashed: frozenset[int] = frozenset(),
) -> Iterator[SampleBatch]:
    """The rows of a tar as batches, the last with their number in `shard_rows`, even when there are
    none. Rows in `crashed` are as in `read_rows.read_shard`. Where the file cannot be read, or has
    more rows than a shard can, the last batch says so as its `failure`."""
    number, pending, failure = spec.first_row, list[Sample](), None
    assert spec.tar is not None
    try:
        with fsspec.open(spec.tar, "rb") as file:
            for row in rows_of(file, max_bytes):
                if number - spec.first_row == MAX_ROWS_PER_SHARD:
                    raise OSError(f"{spec.tar}: more than {MAX_ROWS_PER_SHARD} rows; split it")
                sample = to_sample(number, row, columns, max_bytes)
                if number in crashed:
                    drop = Drop(Stage.DECODE, Reason.DECODE_CRASHED)
                    sample = replace(sample, drop=drop, fetched=None)
                if len(pending) == batch_size or _nbytes(pending) + _nbytes([sample]) > (
                    MAX_BATCH_BYTES
                ):
                    yield SampleBatch(spec, filter_rows(pending, columns))
                    pending = []
                pending.append(sample)
                number += 1
    except OSError as error:
        failure = f"{Stage.READ}: {' '.join(str(error).split())[:300]}"
    last = filter_rows(pending, columns)
    yield SampleBatch(spec, last, failure, shard_rows=number - spec.first_row)


def filter_rows(samples: Sequence[Sample], columns: TarColumns) -> tuple[Sample, ...]:
    """`samples`, those that were read and do not satisfy `columns.where` dropped as filtered."""
    if columns.where is None or not samples:
        return tuple(samples)
    types, texts = columns.types, (columns.url, columns.caption or "caption")
    values = [
        {**dict(zip(texts, (s.url, s.source_caption), strict=True)), **s.extra} for s in samples
    ]
    table = pa.table(
        {name: pa.array([v[name] for v in values], types[name]) for name in columns.where.columns}
    )
    return tuple(
        replace(sample, drop=filtered(verdict), fetched=None)
        if not verdict and (sample.drop is None or sample.drop.stage is not Stage.READ)
        else sample
        for sample, verdict in zip(samples, columns.where.satisfied(table), strict=True)
    )


def _nbytes(samples: Iterable[Sample]) -> int:
    return sum(len(s.fetched.body or b"") for s in samples if s.fetched)


class ReadTars(beam.PTransform):
    """PCollection[ShardSpec] -> PCollection[SampleBatch] with `fetched` or `drop` set."""

    def __init__(
        self,
        output: str,
        columns: TarColumns,
        max_bytes: int,
        run: worker.Run,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__()
        read = partial(
            read_tar,
            columns=columns,
            max_bytes=max_bytes,
            batch_size=batch_size,
            crashed=run.crashed_rows,
        )
        self._fn = ExpandFn(output, run, read)

    def expand(self, specs: beam.PCollection) -> beam.PCollection:
        return specs | beam.ParDo(self._fn).with_output_types(SampleBatch)
