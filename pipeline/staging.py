"""Staging: text lists are streamed once into Parquet under OUT/_input."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.odd_json import changed_column, has_empty_struct, merge_types, with_texts
from facecap.pipeline.output import STAGED
from facecap.pipeline.plan import CAPTION_COLUMNS, URL_COLUMNS
from facecap.pipeline.sources import SourceFile
from facecap.pipeline.text_stream import (
    BLOCK_BYTES,
    UnreadableText,
    array_blocks,
    json_lines,
    open_text,
    whole_lines,
)
from facecap.schemas.tables import replace_leaves
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.store import Store


def stage(source: SourceFile, store: Store, options: InputOptions) -> str:
    """Stream `source` into a Parquet file under OUT/_input and return its path or URL.

    The name is made of what tells one state of the source from another (for a local file its
    times, size and inode) and of the named columns, so a continued build finds it again and a
    corrected list is read anew. All columns of a CSV or TSV are text: its extras keep every zero
    and digit. JSON keeps its types; a text that looks like a time is a text. Raises UsageError
    naming the file.
    """
    columns = f"{options.url_column}\n{options.caption_column}"
    target = f"{STAGED}/{state_hash(source, columns)}.parquet"
    if not store.exists(target):
        try:
            with store.written_aside(target) as temporary:
                _copy(source, temporary, options)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise UsageError(f"--input {source.path}: {_explain(error)}") from None
    return store.url(target)


def state_hash(source: SourceFile, *more: str) -> str:
    """16 hex digits that tell one state of `source`, used in one way, from another."""
    fs, path = fsspec.core.url_to_fs(source.path)
    state = "\n".join([source.path, str(source.size), fs.ukey(path), *more])
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def _explain(error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    if "straddl" in reason:
        return (
            f"has a record of more than {BLOCK_BYTES >> 20} MiB; look for a quotation mark "
            "that is never closed"
        )
    if "specified twice" in reason:
        return f"{reason}; remove one of the two from its object"
    return reason


def _copy(source: SourceFile, target: Path, options: InputOptions) -> None:
    with (
        open_tables(source, options) as (schema, batches),
        pq.ParquetWriter(target, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write(batch)


Tables = tuple[pa.Schema, Iterable[pa.RecordBatch | pa.Table]]


def open_tables(source: SourceFile, options: InputOptions) -> AbstractContextManager[Tables]:
    """The schema of a text list and its rows in blocks."""
    return _READERS[source.format](source, options)


def _open(source: SourceFile) -> AbstractContextManager[io.BufferedReader]:
    gzipped = source.path.lower().endswith(".gz")
    return open_text(source.path, source.size, gzipped=gzipped, one_newline=source.format == "txt")


@contextmanager
def _read_csv(source: SourceFile, _: InputOptions) -> Iterator[Tables]:
    with _open_csv(source, []) as first:
        names = first.schema.names
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise UnreadableText(f"has two columns named {twice!r}; rename one")
    with _open_csv(source, names) as reader:
        yield reader.schema, reader


@contextmanager
def _open_csv(source: SourceFile, text: Iterable[str]) -> Iterator[pa_csv.CSVStreamingReader]:
    with (
        _open(source) as file,
        pa_csv.open_csv(
            file,
            read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=_CSV if source.format == "csv" else _TSV,
            # An alt text "NA" or "null" is a text, not a missing value.
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=False
            ),
        ) as reader,
    ):
        yield reader


_CSV = pa_csv.ParseOptions(newlines_in_values=True)
# A TSV has no quotes: one that begins an alt text would swallow the rows up to the next.
_TSV = pa_csv.ParseOptions(delimiter="\t", quote_char=False)


@contextmanager
def _read_txt(source: SourceFile, options: InputOptions) -> Iterator[Tables]:
    """A URL on each line; an empty line is none."""
    schema = pa.schema([(options.url_column or "url", pa.string())])

    def tables(file: io.BufferedReader) -> Iterator[pa.RecordBatch]:
        for block in whole_lines(file):
            urls = [url for line in block.decode().split("\n") if (url := line.strip())]
            yield pa.record_batch([pa.array(urls, pa.string())], schema)

    with _open(source) as file:
        yield schema, tables(file)


@contextmanager
def _read_json(source: SourceFile, options: InputOptions) -> Iterator[Tables]:
    """Twice through the file: a field may first appear in its last line. A column that no one type
    holds is text."""
    known = {*URL_COLUMNS, *CAPTION_COLUMNS, options.url_column, options.caption_column}
    types: dict[str, pa.DataType] = {}
    texts: set[str] = set()
    with _open(source) as file:
        for table in _json_tables(file, texts):
            found = [f.with_type(replace_leaves(f.type, _as_written)) for f in table.schema]
            types = merge_types(types, pa.schema(found), texts)
    if not types:
        raise UnreadableText("holds no JSON object")
    urls = (options.url_column,) if options.url_column else URL_COLUMNS
    url = next((name for name in urls if name in types), None)
    if url is not None and pa.types.is_nested(types[url]):
        raise UnreadableText(
            f"column {url!r} holds {str(types[url])[:60]}, not URLs; write one object for each row"
        )
    texts.update(n for n, kind in types.items() if n in known or has_empty_struct(kind))
    schema = pa.schema({n: pa.string() if n in texts else kind for n, kind in types.items()})
    odd = {n for n in texts if n not in known or not _is_text_or_null(types[n])}
    with _open(source) as file:
        yield schema, _json_tables(file, odd, schema)


def _json_tables(
    file: io.BufferedReader, texts: set[str], schema: pa.Schema | None = None
) -> Iterator[pa.Table]:
    """Tables of about BLOCK_BYTES of text, of JSON Lines or of an array of objects, the columns
    `texts` as text; without a schema those join them whose type changes within a block."""
    while (head := file.peek()) and not head.lstrip():
        file.read(len(head))
    is_array = head.lstrip().startswith(b"[")
    for block in array_blocks(file) if is_array else json_lines(file):
        table = None
        while table is None and not block.isspace():
            try:
                table = _json_table(with_texts(block, texts), schema)
            except pa.ArrowInvalid as error:
                name = changed_column(error, block)
                if name is None or name in texts:
                    raise
                texts.add(name)
        if table is not None:
            yield table


def _json_table(block: bytes, schema: pa.Schema | None) -> pa.Table:
    try:
        return _parse_json(block, schema)
    except pa.ArrowInvalid as error:
        if "surrogate" not in str(error):
            raise
        return _parse_json(_ESCAPE.sub(_no_lone_surrogate, block), schema)


def _parse_json(block: bytes, schema: pa.Schema | None) -> pa.Table:
    return pa_json.read_json(
        io.BytesIO(block),
        read_options=pa_json.ReadOptions(block_size=len(block)),
        parse_options=pa_json.ParseOptions(explicit_schema=schema),
    )


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL
)


def _no_lone_surrogate(escape: re.Match[bytes]) -> bytes:
    text = escape[0]
    is_lone = len(text) == 6 and text[2:4].lower() >= b"d8" and text[2:3] in b"dD"
    return rb"\ufffd" if is_lone else text


def _as_written(kind: pa.DataType) -> pa.DataType:
    """JSON has no times: Arrow took a text for one."""
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _is_text_or_null(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_null(kind))


_READERS: dict[str, Callable[[SourceFile, InputOptions], AbstractContextManager[Tables]]] = {
    "csv": _read_csv,
    "tsv": _read_csv,
    "txt": _read_txt,
    "json": _read_json,
    "jsonl": _read_json,
}
