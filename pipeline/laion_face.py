"""LAION-Face: lists of SAMPLE_IDs joined to LAION-400M's Parquet, as a stream.

LAION-Face is published as `laion_face_ids.pth`: one list of integer SAMPLE_IDs for each of the 32
files of LAION-400M (github.com/FacePerceiver/LAION-Face). In that Parquet SAMPLE_ID is a double,
and may be null. SAMPLE_IDs are unique, so all lists are one set here.
"""

from __future__ import annotations

import hashlib
import json
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import STAGED
from facecap.pipeline.pickled_ids import PickleError, pickled_ids
from facecap.pipeline.plan import read_footers
from facecap.pipeline.sources import SourceFile, list_files
from facecap.pipeline.staging import open_tables, state_hash
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.store import Store

Ids = npt.NDArray[np.int64]

ID_COLUMNS = ("SAMPLE_ID", "sample_id")
LIST_FORMATS = {
    ".parquet": "parquet",
    ".npy": "npy",
    ".pth": "pth",
    ".pt": "pth",
    ".txt": "txt",
    ".txt.gz": "txt",
    ".csv": "csv",
    ".csv.gz": "csv",
}
NO_ID = np.iinfo(np.int64).min
"""Stands for a cell that holds no integer."""

_BATCH_ROWS = 65_536
_CONVERT = (
    'convert it: python -c "import itertools, numpy, torch; '
    "ids = torch.load('IDS.pth'); "
    "numpy.save('ids.npy', [int(i) for i in itertools.chain.from_iterable(ids)])\""
)


@dataclass(frozen=True)
class IdList:
    """What is known of the ids: how many different ones, how many entries were none, how many of
    the ids the input holds, and the sha256 of the sorted ids (little-endian int64)."""

    ids: int
    ignored: int
    found: int
    sha256: str

    def __str__(self) -> str:
        missing, ignored = self.ids - self.found, self.ignored
        text = f"{self.found} of the {self.ids} ids in input.sample_ids are in the input"
        text += f", {missing} are not" if missing else ""
        return text + (f"; {ignored} entries of the list are no ids" if ignored else "")


def join(
    sources: Sequence[SourceFile], paths: Sequence[str], store: Store, options: InputOptions
) -> tuple[list[str], IdList]:
    """The rows of each Parquet file of `paths` (the source itself, or what it was staged into)
    whose id is listed, in the file's order, as Parquet under OUT/_input; and what is known of
    the ids. What an earlier start has joined is found again. Memory: 9 bytes per id and a batch of
    rows. Raises UsageError.
    """
    assert options.sample_ids is not None
    lists = list_files(options.sample_ids, "input.sample_ids", LIST_FORMATS)
    if not lists:
        raise UsageError(f"input.sample_ids {options.sample_ids}: no file; name a list of ids")
    states = [state_hash(found, str(options.id_column)) for found in lists]
    targets = [f"{STAGED}/{state_hash(source, *states)}.parquet" for source in sources]
    together = hashlib.sha256(
        "\n".join(target.rpartition("/")[2] for target in targets).encode()
    ).hexdigest()
    summary = f"{STAGED}/{together[:16]}.json"
    if not all(store.exists(name) for name in (summary, *targets)):
        names = [source.path for source in sources]
        known = _join(lists, paths, names, targets, store, options)
        store.replace(summary, json.dumps(asdict(known)).encode())
    known = IdList(**json.loads(store.read(summary)))
    if not known.found:
        raise UsageError(
            f"input.sample_ids {options.sample_ids}: none of its {known.ids} ids is in the input; "
            "is it a list for another dataset, or input.id_column another column?"
        )
    return [store.url(target) for target in targets], known


def _join(
    lists: Sequence[SourceFile],
    paths: Sequence[str],
    names: Sequence[str],
    targets: Sequence[str],
    store: Store,
    options: InputOptions,
) -> IdList:
    footers = zip(read_footers(paths), names, strict=True)
    columns = [_id_column(footer.schema, options, name) for footer, name in footers]
    ids, ignored = read_ids(lists, options)
    found = np.zeros(len(ids), np.bool_)
    for path, target, column in zip(paths, targets, columns, strict=True):
        if store.exists(target):
            _mark_found(store.url(target), column, ids, found)
            continue
        try:
            with store.written_aside(target) as temporary:
                _join_file(path, temporary, column, ids, found)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--input {path}: {reason}") from None
    sha256 = hashlib.sha256(ids.astype("<i8", copy=False).data).hexdigest()
    return IdList(len(ids), ignored, int(np.count_nonzero(found)), sha256)


def _join_file(
    path: str, target: Path, column: str, ids: Ids, found: npt.NDArray[np.bool_]
) -> None:
    with (
        fsspec.open(path, "rb") as raw,
        pq.ParquetFile(raw) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer,
    ):
        pending: list[pa.RecordBatch] = []
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            pending.append(batch.filter(pa.array(_look_up(batch.column(column), ids, found))))
            if sum(map(len, pending)) >= _BATCH_ROWS:
                writer.write_table(pa.Table.from_batches(pending))
                pending = []
        writer.write_table(pa.Table.from_batches(pending, file.schema_arrow))


def _mark_found(path: str, column: str, ids: Ids, found: npt.NDArray[np.bool_]) -> None:
    with fsspec.open(path, "rb") as raw, pq.ParquetFile(raw) as file:
        for batch in file.iter_batches(columns=[column]):
            _look_up(batch.column(column), ids, found)


def _look_up(column: pa.Array, ids: Ids, found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which cells are among the sorted `ids`; `found` is set for them."""
    wanted = to_ids(column)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    hit: npt.NDArray[np.bool_] = ids[place] == wanted
    found[place[hit]] = True
    return hit


def _id_column(schema: pa.Schema, options: InputOptions, path: str) -> str:
    """The column of the ids. Raises UsageError where there is none."""
    names = (options.id_column,) if options.id_column else ID_COLUMNS
    column = next((name for name in names if name in schema.names), None)
    if column is None:
        raise UsageError(
            f"input.id_column: {path} has no column {' or '.join(map(repr, names))}; it has: "
            f"{', '.join(schema.names)[:500]}"
        )
    kind = schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_text(kind)):
        raise UsageError(f"input.id_column: {column!r} of {path} holds {str(kind)[:60]}, no ids")
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def to_ids(column: pa.Array) -> Ids:
    """The cells as int64 [n]: NO_ID for null and for whatever is no integer. A double holds an
    integer exactly below 2**53."""
    if pa.types.is_integer(column.type):
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:  # uint64
            column = pa.array(
                [v if v is not None and v < 2**63 else None for v in column.to_pylist()]
            )
        return np.asarray(pc.fill_null(column.cast(pa.int64()), NO_ID), np.int64)
    if pa.types.is_floating(column.type):
        values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        with np.errstate(invalid="ignore"):
            whole = (np.abs(values) < 2**53) & (values == np.floor(values))
        ids = np.full(len(values), NO_ID, np.int64)
        ids[whole] = values[whole].astype(np.int64)
        return ids
    try:
        return to_ids(column.cast(pa.int64()))
    except pa.ArrowInvalid:
        return np.fromiter((_parse(text) for text in column.to_pylist()), np.int64, len(column))


def _parse(text: str | None) -> int:
    """Pandas writes integers as 123.0 where the column has a gap."""
    try:
        number = int(text or "")
    except ValueError:
        try:
            value = float(text or "nan")
        except ValueError:
            return NO_ID
        number = int(value) if value.is_integer() and abs(value) < 2**53 else NO_ID
    return number if abs(number) < 2**63 else NO_ID


def read_ids(lists: Sequence[SourceFile], options: InputOptions) -> tuple[Ids, int]:
    """The different ids of all lists, int64 [n] sorted, and how many entries were none. Raises
    UsageError naming the file."""
    parts: list[Ids] = []
    for source in lists:
        setting = f"input.sample_ids {source.path}"
        try:
            with fsspec.open(source.path, "rb") as file:
                parts += _READERS[source.format](source, file, options)
        except PickleError as error:
            raise UsageError(f"{setting}: {error}; {_CONVERT}") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:400]
            raise UsageError(f"{setting}: {reason}") from None
    ids = np.concatenate(parts) if parts else np.empty(0, np.int64)
    entries, parts = len(ids), []
    ids.sort()
    ids = ids[np.searchsorted(ids, NO_ID, "right") :]
    ignored = entries - len(ids)
    if len(ids) and (twice := ids[1:] == ids[:-1]).any():
        ids = ids[np.concatenate([[True], ~twice])]
    if not len(ids):
        raise UsageError("input.sample_ids: holds no ids; name a list of SAMPLE_IDs")
    return ids, ignored


def _read_npy(source: SourceFile, file: IO[bytes], _: InputOptions) -> Iterator[Ids]:
    """A one-dimensional array of integers or doubles; of objects it would be a pickle."""
    version = np.lib.format.read_magic(file)
    headers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"is a .npy of version {version}; save it anew with numpy.save")
    try:
        shape, _order, dtype = headers[version](file)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        # numpy mends headers of Python 2 by the tokenize module, and lets out what that raises.
        raise ValueError(f"is no sound .npy file ({error}); save it anew with numpy.save") from None
    if len(shape) != 1 or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"holds {dtype} {shape}, not a one-dimensional array of integers")
    left = shape[0] * dtype.itemsize
    while left:
        data = file.read(min(left, 8 << 20))
        if not data or len(data) % dtype.itemsize:
            raise ValueError("ends early; fetch it again")
        left -= len(data)
        yield to_ids(pa.array(np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))))


def _read_parquet(source: SourceFile, file: IO[bytes], options: InputOptions) -> Iterator[Ids]:
    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        column = schema.names[0]
        if len(schema.names) > 1 or options.id_column in schema.names:
            column = _id_column(schema, options, source.path)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
            yield to_ids(batch.column(0))


def _read_text(source: SourceFile, _: IO[bytes], options: InputOptions) -> Iterator[Ids]:
    """The column of that name; the only column of a CSV; each line of a TXT."""
    with open_tables(source, InputOptions()) as (schema, batches):
        column = schema.names[0]
        if len(schema.names) > 1:
            column = _id_column(schema, options, source.path)
        elif source.format == "csv" and to_ids(pa.array([column]))[0] != NO_ID:
            raise ValueError("has no first line that names the column; name the file .txt")
        for batch in batches:
            yield to_ids(batch.column(schema.get_field_index(column)))


def _read_pth(source: SourceFile, file: IO[bytes], _: InputOptions) -> Iterator[Ids]:
    yield pickled_ids(file)


_READERS = {
    "npy": _read_npy,
    "parquet": _read_parquet,
    "txt": _read_text,
    "csv": _read_text,
    "pth": _read_pth,
}
