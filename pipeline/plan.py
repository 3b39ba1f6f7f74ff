"""Planning: which files, which columns, how many rows, which shard holds which.

Parquet is planned from its footers alone; other formats are first staged (pipeline.staging).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.tar_input import only_tars
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.schemas.tables import stored_type
from facecap.transforms.read_rows import Columns, InputOptions, cast
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
_TEXT = {".csv": "csv", ".tsv": "tsv", ".txt": "txt", ".json": "json", ".jsonl": "jsonl"}
_TEXT[".ndjson"] = "jsonl"
FORMATS = {
    ".parquet": "parquet",
    ".tar": "tar",
    **_TEXT,
    **{f"{suffix}.gz": kind for suffix, kind in _TEXT.items()},
}
"""What the end of a file's name says about its format."""

MAX_ROWS_PER_SHARD_BY_DEFAULT = 10_000
SHARDS_AT_LEAST = 64
FOOTER_READERS = 16


@dataclass(frozen=True)
class SourceFile:
    """A file of the input as the user named it: its format and its size in bytes."""

    path: str
    format: str
    size: int


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


def find_sources(location: str) -> list[SourceFile]:
    """The input files below a path, folder or glob (any fsspec URL), sorted by path.

    Raises UsageError when nothing readable is there.
    """
    files = list_files(location, "--input", FORMATS)
    if not files:
        raise UsageError(f"--input {location}: holds no {', '.join(sorted(FORMATS))} file")
    files = only_tars(files, location)
    _refuse_notes(files, location)
    return files


def list_files(location: str, setting: str, formats: Mapping[str, str]) -> list[SourceFile]:
    """The files of `formats` (end of the name -> format) below a path, folder or glob, sorted by
    path. Raises UsageError that begins with `setting`."""
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # A file may well be named `urls [v2].csv`: only what is not there is a pattern.
        if any(c in path for c in "*?[") and not fs.exists(path):
            found: dict[str, dict[str, Any]] = {}
            for name, info in fs.glob(path, detail=True).items():
                is_file = info["type"] == "file"
                found.update({name: info} if is_file else _files_below(fs, name, formats))
        elif fs.isdir(path):
            found = _files_below(fs, path, formats)
        else:
            found = {path: fs.info(path)}
    except FileNotFoundError:
        raise UsageError(f"{setting} {location}: no such file or folder") from None
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{setting} {location}: {' '.join(str(error).split())}") from None
    files = []
    for name, info in sorted(found.items()):
        if info["type"] != "file":
            continue
        kind = _format(name, formats)
        if kind is None:
            known = ", ".join(sorted(formats))
            raise UsageError(f"{setting} {name}: unknown format; the name must end in {known}")
        if info["size"] == 0:
            raise UsageError(f"{setting} {name}: the file is empty; complete it, or take it away")
        files.append(SourceFile(fs.unstrip_protocol(name), kind, int(info["size"])))
    return files


def _refuse_notes(files: Sequence[SourceFile], location: str) -> None:
    """Raises UsageError where .txt or .json files lie beside others: a README.txt or a tool's
    statistics, whose every line would be taken for a URL."""
    note = next((f for f in files if f.format in ("txt", "json")), None)
    other = next((f for f in files if note and f.format != note.format), None)
    if note and other:
        raise UsageError(
            f"--input {location}: holds lists of different formats ({note.path}, {other.path}); "
            "choose one by a glob, such as 'FOLDER/*.parquet'"
        )


def _files_below(
    fs: fsspec.AbstractFileSystem, folder: str, formats: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    return {
        name: info
        for name, info in fs.find(folder, detail=True).items()
        if _format(name, formats) and not _is_hidden(name.removeprefix(folder))
    }


def _format(name: str, formats: Mapping[str, str]) -> str | None:
    return next((kind for suffix, kind in formats.items() if name.lower().endswith(suffix)), None)


def _is_hidden(name: str) -> bool:
    """Whether a part of the path marks it as no data, as Spark and Hive do (`_SUCCESS`)."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


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


def with_where(columns: Columns, options: InputOptions) -> Columns:
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
