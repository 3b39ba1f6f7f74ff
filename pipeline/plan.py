"""Planning: which columns, how many rows, which shard holds which.

Parquet is planned from its footers alone; other formats are first staged (pipeline.staging).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.sources import SourceFile
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.schemas.tables import stored_type
from facecap.transforms.read_rows import Columns, InputOptions, cast
from facecap.transforms.tar_columns import TarColumns
from facecap.transforms.where import WhereError, check

URL_COLUMNS = ("url", "URL", "image_url", "img_url", "imageUrl", "uri", "src")
CAPTION_COLUMNS = (
    "caption",
    "CAPTION",
    "TEXT",
    "text",
    "alt",
    "alt_text",
    "laion_caption",
    "top_caption",
)
AnyColumns = TypeVar("AnyColumns", Columns, TarColumns)

MAX_ROWS_PER_SHARD_BY_DEFAULT = 10_000
SHARDS_AT_LEAST = 64
FOOTER_READERS = 16


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file to read rows from: the source itself, or what it was staged into."""

    path: str
    rows: int
    schema: pa.Schema


@dataclass(frozen=True)
class Plan:
    """Global row numbers run through `files` in order; `limit` was applied to `rows`."""

    files: tuple[ParquetFile, ...]
    columns: Columns
    rows: int
    rows_per_shard: int

    @property
    def extra(self) -> pa.Schema:
        return self.columns.extra

    @property
    def shards(self) -> int:
        return math.ceil(self.rows / self.rows_per_shard)

    def specs(self) -> list[ShardSpec]:
        return shard_specs([(f.path, f.rows) for f in self.files], self.rows, self.rows_per_shard)


def read_footers(paths: Sequence[str]) -> list[ParquetFile]:
    """Rows and schema of each Parquet file, from its footer. Raises UsageError."""
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        return list(pool.map(_read_footer, paths))


def _read_footer(path: str) -> ParquetFile:
    try:
        with fsspec.open(path, "rb") as raw, pq.ParquetFile(raw) as file:
            return ParquetFile(path, file.metadata.num_rows, file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--input {path}: not a readable Parquet file ({reason})") from None


def choose_columns(schema: pa.Schema, options: InputOptions, source: str) -> Columns:
    """Which columns hold the URL and the caption; the others are passed through. `schema` is in
    stored types.

    Raises UsageError when there is no URL column or a named column is missing.
    """
    url = _column(schema, options.url_column, URL_COLUMNS, "input.url_column", source)
    if url is None:
        names = ", ".join(schema.names)
        hint = (
            "give the file a first line that names its columns"
            if any(name.startswith(("http://", "https://")) for name in schema.names)
            else "name it by input.url_column"
        )
        raise UsageError(f"{source}: no URL column among: {names[:500]}; {hint}")
    caption = _column(
        schema, options.caption_column, CAPTION_COLUMNS, "input.caption_column", source
    )
    # pandas writes its index as a column of this name: bookkeeping, not data.
    extra = [f for f in schema if f.name not in (url, caption) and not _is_pandas_index(f.name)]
    return Columns(url, caption, pa.schema(extra))


def with_where(columns: AnyColumns, options: InputOptions) -> AnyColumns:
    """`columns` with the condition of input.where, checked. Raises UsageError."""
    if options.where is None:
        return columns
    try:
        return replace(columns, where=check(options.where, columns.types))
    except WhereError as error:
        raise UsageError(f"input.where: {error}") from None


def _column(
    schema: pa.Schema, named: str | None, known: Iterable[str], setting: str, source: str
) -> str | None:
    if named is not None and named not in schema.names:
        names = ", ".join(schema.names)
        raise UsageError(f"{setting}: {source} has no column {named!r}; it has: {names}")
    column = named or next((name for name in known if name in schema.names), None)
    if column is not None and not _is_text(schema.field(column).type):
        kind = schema.field(column).type
        holds = str(kind)[:60]
        raise UsageError(f"{setting}: column {column!r} of {source} holds {holds}, not text")
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    )


def _is_pandas_index(name: str) -> bool:
    return name.startswith("__index_level_") and name.endswith("__")


def make_plan(
    files: Sequence[ParquetFile],
    options: InputOptions,
    source: str,
    limit: int | None,
    rows_per_shard: int | None,
) -> Plan:
    """Raises UsageError on files whose columns disagree and on an empty list."""
    try:
        schema = pa.unify_schemas([_stored_schema(f) for f in files], promote_options="permissive")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"--input {source}: the files' columns disagree ({reason}); give them one type, e.g. "
            "in Parquet (all of a CSV or TSV is text), or build from each kind by itself"
        ) from None
    columns = with_where(choose_columns(schema, options, source), options)
    for file in files:
        _check_types(file, columns)
    lacking = next((f.path for f in files if columns.url not in f.schema.names), None)
    if lacking:
        raise UsageError(f"{lacking}: has no column {columns.url!r}, which other files have")
    total = sum(f.rows for f in files)
    rows = total if limit is None else min(limit, total)
    if not rows:
        raise UsageError(f"--input {source}: the list is empty; nothing to build")
    per_shard = rows_per_shard or min(
        MAX_ROWS_PER_SHARD_BY_DEFAULT, math.ceil(rows / SHARDS_AT_LEAST)
    )
    return Plan(tuple(files), columns, rows, per_shard)


def _stored_schema(file: ParquetFile) -> pa.Schema:
    fields = []
    names = file.schema.names
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{file.path}: has two columns named {twice!r}; rename one")
    for field in file.schema:
        try:
            fields.append(pa.field(field.name, stored_type(field.type)))
        except ValueError as error:
            raise UsageError(f"{file.path}: column {field.name!r} {error}; rename one") from None
    return pa.schema(fields)


def _check_types(file: ParquetFile, columns: Columns) -> None:
    """Raises UsageError now on what would fail every shard of `file`."""
    for name, kind in columns.types.items():
        if name in file.schema.names:
            was = file.schema.field(name).type
            try:
                cast(pa.array([], was), kind)
            except (pa.ArrowException, NotImplementedError):
                raise UsageError(
                    f"{file.path}: column {name!r} holds {was}, which cannot be stored as {kind}; "
                    "convert it, or leave it out of the list"
                ) from None


def shard_specs(
    files: Sequence[tuple[str, int]], rows: int, rows_per_shard: int
) -> list[ShardSpec]:
    """Cut the first `rows` rows of `files` (path, rows) into shards of `rows_per_shard`."""
    specs = []
    file, start = 0, 0
    for number, first in enumerate(range(0, rows, rows_per_shard)):
        left = min(rows_per_shard, rows - first)
        ranges = []
        while left:
            path, length = files[file]
            count = min(left, length - start)
            if count:
                ranges.append(InputRange(path, start, count))
                left, start = left - count, start + count
            if start == length:
                file, start = file + 1, 0
        specs.append(ShardSpec(number, first, tuple(ranges)))
    return specs


def describe_sources(
    sources: Sequence[SourceFile], plan: Plan, limit: int | None
) -> dict[str, Any]:
    """What of the input enters the fingerprint: paths, sizes, row counts, limit."""
    return {
        "files": [
            {"path": s.path, "bytes": s.size, "rows": f.rows}
            for s, f in zip(sources, plan.files, strict=True)
        ],
        "limit": limit,
        "rows": plan.rows,
    }
