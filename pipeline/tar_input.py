"""WebDataset tars as input: which files they are, and which shard is which tar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from tarfile import BLOCKSIZE, HeaderError, TarInfo
from typing import Any

import fsspec
import pyarrow as pa

from facecap.pipeline.errors import UsageError
from facecap.pipeline.plan import with_where
from facecap.pipeline.sources import SourceFile
from facecap.schemas.shard import MAX_ROWS_PER_SHARD, ShardSpec
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.read_tars import peek
from facecap.transforms.tar_columns import TarColumns

MAX_TARS = 1_000_000
"""SHARD in the key has six digits."""

_READERS = 16
_TARS_PEEKED = 1000


@dataclass(frozen=True)
class TarPlan:
    """One tar is one shard. Global rows of shard k start at k * MAX_ROWS_PER_SHARD, for nobody
    knows how many there are before they are read."""

    tars: tuple[str, ...]
    columns: TarColumns
    rows: int | None = None
    rows_per_shard: int = MAX_ROWS_PER_SHARD

    @property
    def extra(self) -> pa.Schema:
        return self.columns.extra

    @property
    def shards(self) -> int:
        return len(self.tars)

    def specs(self) -> list[ShardSpec]:
        first = MAX_ROWS_PER_SHARD
        return [ShardSpec(k, k * first, (), path) for k, path in enumerate(self.tars)]


def plan_tars(
    sources: Sequence[SourceFile],
    options: InputOptions,
    limit: int | None,
    rows_per_shard: int | None,
    max_bytes: int,
) -> TarPlan:
    """The columns come from the first rows of the first tar that holds any, of the first
    _TARS_PEEKED.

    Raises UsageError on files that are no tars, on settings that need the number of rows and on
    named columns that those rows do not have.
    """
    if rows_per_shard is not None:
        raise UsageError("build.rows_per_shard: one tar of the input is one shard; leave it unset")
    if limit is not None:
        raise UsageError("--limit: tars are counted while they are read; name fewer tars instead")
    if options.sample_ids is not None:
        raise UsageError("input.sample_ids: is for lists; choose rows of tars by input.where")
    if len(sources) > MAX_TARS:
        raise UsageError(f"--input: {len(sources)} tars, at most {MAX_TARS} can be one build")
    paths = [source.path for source in sources]
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(_check, paths))
    for path in paths[:_TARS_PEEKED]:
        try:
            rows = peek(path, max_bytes)
            columns = TarColumns.of(options, rows)
        except (OSError, ValueError) as error:
            raise UsageError(f"--input {path}: {' '.join(str(error).split())}") from None
        if rows:
            _check_named(rows, options, path)
            break
    return TarPlan(tuple(paths), with_where(columns, options))


def _check_named(rows: Sequence[Mapping[str, Any]], options: InputOptions, path: str) -> None:
    names = sorted({name for row in rows for name in row})
    for setting in ("url_column", "caption_column"):
        named = getattr(options, setting)
        if named is not None and named not in names:
            raise UsageError(
                f"input.{setting}: the JSON of the first rows of {path} has no field {named!r}; "
                f"it has: {', '.join(names)[:500]}"
            )


def _check(path: str) -> None:
    """Raises UsageError where the file does not begin as a tar does."""
    try:
        with fsspec.open(path, "rb") as file:
            block = file.read(BLOCKSIZE)
    except OSError as error:
        raise UsageError(f"--input {path}: {' '.join(str(error).split())}") from None
    if not block.strip(b"\0"):
        return
    try:
        TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except HeaderError:
        packed = block.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        remedy = "decompress it first" if packed else "replace it, or take it away"
        raise UsageError(f"--input {path}: is not a tar archive; {remedy}") from None


def describe_tars(sources: Sequence[SourceFile], plan: TarPlan) -> dict[str, Any]:
    """What of the input enters the fingerprint: paths, sizes and the columns found."""
    return {
        "files": [{"path": s.path, "bytes": s.size, "rows": None} for s in sources],
        "columns": {field.name: str(field.type) for field in plan.extra},
        "limit": None,
        "rows": None,
    }
