"""Staging: CSV and JSON Lines are streamed once into Parquet under OUT/_input."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.plan import CAPTION_COLUMNS, URL_COLUMNS, SourceFile
from facecap.transforms.read_rows import InputOptions

BLOCK_BYTES = 8 << 20
STAGED = "_input"


def stage(source: SourceFile, output: Path, options: InputOptions) -> str:
    """Stream `source` into a Parquet file under `output`/_input and return its path.

    The name is made of the source's path and size, so a continued build finds it again. Types
    are inferred from the first block; a file that breaks them later is staged as text. The
    URL and caption columns are always text. Raises UsageError naming the file.
    """
    name = hashlib.sha256(f"{source.path}\n{source.size}".encode()).hexdigest()[:16]
    target = output / STAGED / f"{name}.parquet"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{name}.{uuid.uuid4().hex}")
        try:
            _convert(source, temporary, options)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return str(target)


def _convert(source: SourceFile, target: Path, options: InputOptions) -> None:
    for as_text in (False, True):
        try:
            _copy(source, target, options, as_text)
            return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            # Only a CSV can be read again as text: JSON says what type a value has.
            if as_text or source.format != "csv" or isinstance(error, OSError):
                raise UsageError(f"--input {source.path}: {reason}") from None


def _copy(source: SourceFile, target: Path, options: InputOptions, as_text: bool) -> None:
    with (
        _batches(source, options, as_text) as (schema, batches),
        pq.ParquetWriter(target, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


@contextmanager
def _batches(
    source: SourceFile, options: InputOptions, as_text: bool
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with _open_csv(source) if source.format == "csv" else _open_json(source) as first:
        schema = first.schema
    known = {*URL_COLUMNS, *CAPTION_COLUMNS, options.url_column, options.caption_column}
    text = {name: pa.string() for name in schema.names if as_text or name in known}
    with _open_csv(source, text) if source.format == "csv" else _open_json(source, text) as reader:
        yield reader.schema, iter(reader)


@contextmanager
def _open_csv(
    source: SourceFile, text: Mapping[str, pa.DataType] | None = None
) -> Iterator[pa_csv.CSVStreamingReader]:
    # An alt text "NA" or "null" is a text, not a missing value.
    convert = pa_csv.ConvertOptions(column_types=text, strings_can_be_null=False)
    with (
        fsspec.open(source.path, "rb") as file,
        pa_csv.open_csv(
            file,
            read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=convert,
        ) as reader,
    ):
        yield reader


@contextmanager
def _open_json(
    source: SourceFile, text: Mapping[str, pa.DataType] | None = None
) -> Iterator[pa_json.JSONStreamingReader]:
    schema = pa.schema(list(text.items())) if text else None
    with (
        fsspec.open(source.path, "rb") as file,
        pa_json.open_json(
            file,
            read_options=pa_json.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa_json.ParseOptions(explicit_schema=schema),
        ) as reader,
    ):
        yield reader
