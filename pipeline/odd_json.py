"""Columns of a JSON list that no one type holds: their values become text, so that an odd cell in a
column that nobody uses refuses no list."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from facecap.pipeline.text_stream import UnreadableText

_CHANGED = re.compile(r"Column\(/(.*)\) changed from", re.DOTALL)
_BLANK = re.compile(r"\s*")


def with_texts(block: bytes, columns: Collection[str]) -> bytes:
    """The JSON objects in `block`, one below the other, the values of `columns` as text: JSON of
    what is neither a text nor null. Raises UnreadableText."""
    if not columns:
        return block
    rows = []
    for row in _objects(block):
        for name in columns:
            value = row.get(name)
            if value is not None and not isinstance(value, str):
                row[name] = json.dumps(value, ensure_ascii=False)
        rows.append(json.dumps(row))
    return "\n".join(rows).encode()


def changed_column(error: pa.ArrowInvalid, block: bytes) -> str | None:
    """The column whose type changes within `block`, by what Arrow's parser says of it: a path of
    names, joined by a slash, which may be in a name, too. None where it says something else."""
    found = _CHANGED.search(str(error))
    if found is None:
        return None
    names = {name for row in _objects(block) for name in row}
    fitting = [name for name in names if f"{found[1]}/".startswith(f"{name}/")]
    return max(fitting, key=len, default=None)


def merge_types(
    types: dict[str, pa.DataType], found: pa.Schema, texts: set[str]
) -> dict[str, pa.DataType]:
    """`types` by column and those `found` in a further block, as the types that hold both. A column
    for which there is none is added to `texts`."""
    merged = dict(types)
    for name, kind in zip(found.names, found.types, strict=True):
        both = [pa.schema({name: k}) for k in (types.get(name, kind), kind)]
        try:
            merged[name] = pa.unify_schemas(both, promote_options="permissive").field(0).type
        except pa.ArrowException:
            texts.add(name)
    return {name: pa.string() if name in texts else kind for name, kind in merged.items()}


def has_empty_struct(kind: pa.DataType) -> bool:
    """Whether an object without fields is in it, for which Parquet has no type."""
    if pa.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(has_empty_struct(kind.field(n).type) for n in range(kind.num_fields))


def _objects(block: bytes) -> Iterator[dict[str, Any]]:
    text, at, parse = block.decode(), 0, json.JSONDecoder().raw_decode
    while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        try:
            row, at = parse(text, at)
        except ValueError as error:
            raise UnreadableText(f"holds an object that is not sound JSON ({error})") from None
        if not isinstance(row, dict):
            raise UnreadableText("holds something else than JSON objects")
        yield row
