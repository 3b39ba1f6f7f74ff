"""Staging: CSV and JSON Lines are streamed once into Parquet under OUT/_input."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import STAGED
from facecap.pipeline.plan import CAPTION_COLUMNS, URL_COLUMNS, SourceFile
from facecap.schemas.tables import replace_leaves
from facecap.transforms.read_rows import InputOptions

BLOCK_BYTES = 8 << 20


def stage(source: SourceFile, output: Path, options: InputOptions) -> str:
    """Stream `source` into a Parquet file under `output`/_input and return its path.

    The name is made of what tells one state of the source from another (for a local file its
    times, size and inode) and of `options`, so a continued build finds it again and a corrected
    list is read anew. All columns of a CSV are text: its extras keep every zero and digit. JSON
    keeps its types; a text that looks like a time is a text. Raises UsageError naming the file.
    """
    fs, path = fsspec.core.url_to_fs(source.path)
    state = f"{source.path}\n{source.size}\n{fs.ukey(path)}\n{options.model_dump_json()}"
    name = hashlib.sha256(state.encode()).hexdigest()[:16]
    target = output / STAGED / f"{name}.parquet"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{name}.{uuid.uuid4().hex}")
        try:
            _copy(source, temporary, options)
            temporary.replace(target)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--input {source.path}: {reason}") from None
        finally:
            temporary.unlink(missing_ok=True)
    return str(target)


def _copy(source: SourceFile, target: Path, options: InputOptions) -> None:
    read = _read_csv if source.format == "csv" else _read_json
    with (
        read(source, options) as (schema, batches),
        pq.ParquetWriter(target, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write(batch)


_Tables = tuple[pa.Schema, Iterable[pa.RecordBatch | pa.Table]]


@contextmanager
def _read_csv(source: SourceFile, _: InputOptions) -> Iterator[_Tables]:
    with _open_csv(source, []) as first:
        names = first.schema.names
    with _open_csv(source, names) as reader:
        yield reader.schema, reader


@contextmanager
def _open_csv(source: SourceFile, text: Iterable[str]) -> Iterator[pa_csv.CSVStreamingReader]:
    with (
        fsspec.open(source.path, "rb") as file,
        pa_csv.open_csv(
            file,
            read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            # An alt text "NA" or "null" is a text, not a missing value.
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=False
            ),
        ) as reader,
    ):
        yield reader


@contextmanager
def _read_json(source: SourceFile, options: InputOptions) -> Iterator[_Tables]:
    """Twice through the file: a field may first appear in its last line."""
    known = {*URL_COLUMNS, *CAPTION_COLUMNS, options.url_column, options.caption_column}
    with fsspec.open(source.path, "rb") as file:
        schema = pa.schema([])
        for table in _json_blocks(file):
            found = [f.with_type(replace_leaves(f.type, _as_written)) for f in table.schema]
            schema = pa.unify_schemas([schema, pa.schema(found)], promote_options="permissive")
        if not schema.names:
            raise pa.ArrowInvalid("holds no JSON object")
        text = [f.with_type(pa.string()) if f.name in known else f for f in schema]
        schema = pa.schema(text)
        file.seek(0)
        yield schema, _json_blocks(file, schema)


def _json_blocks(file: io.BufferedIOBase, schema: pa.Schema | None = None) -> Iterator[pa.Table]:
    """Tables of whole lines, each about BLOCK_BYTES of them."""
    while block := file.read(BLOCK_BYTES) + file.readline():
        if not block.isspace():
            yield pa_json.read_json(
                io.BytesIO(block),
                read_options=pa_json.ReadOptions(block_size=len(block)),
                parse_options=pa_json.ParseOptions(explicit_schema=schema),
            )


def _as_written(kind: pa.DataType) -> pa.DataType:
    """JSON has no times: Arrow took a text for one."""
    return pa.string() if pa.types.is_timestamp(kind) else kind
