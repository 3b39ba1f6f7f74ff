"""The JSON of a tar's rows as columns: which there are, of which types, and each row's cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from facecap.transforms.read_rows import InputOptions
from facecap.transforms.where import Where

MAX_TEXT_BYTES = 1 << 20
"""Of a row's JSON and of its caption."""

MAX_COLUMNS = 1000


@dataclass(frozen=True)
class TarColumns:
    """Which JSON fields are what: `caption` None means the .txt, or else the field `caption`;
    `extra` is passed through to the metadata: bool, int64, float64 and string. `where` is the
    condition that a row must satisfy."""

    url: str
    caption: str | None
    extra: pa.Schema
    where: Where | None = None

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Of all columns that `where` may name."""
        text = dict.fromkeys((self.url, self.caption or "caption"), pa.string())
        return {**text, **{f.name: f.type for f in self.extra}}

    @classmethod
    def of(cls, options: InputOptions, rows: Iterable[Mapping[str, Any]] = ()) -> TarColumns:
        """The columns that `rows`, the first JSON objects (parse_fields) of the input, have. Raises
        ValueError on more than MAX_COLUMNS of them."""
        url = options.url_column or "url"
        kinds: dict[str, set[type]] = {}
        for row in rows:
            for name, value in row.items():
                kinds.setdefault(name, set()).add(type(value))
        for name in (url, options.caption_column or "caption"):
            kinds.pop(name, None)
        if len(kinds) > MAX_COLUMNS:
            raise ValueError(f"has more than {MAX_COLUMNS} JSON fields")
        extra = pa.schema([(name, _arrow_type(found)) for name, found in kinds.items()])
        return cls(url, options.caption_column, extra)


def _arrow_type(kinds: set[type]) -> pa.DataType:
    kinds = kinds - {type(None)}
    for kind, allowed in ((pa.bool_(), {bool}), (pa.int64(), {int}), (pa.float64(), {int, float})):
        if kinds and kinds <= allowed:
            return kind
    return pa.string()


class JsonText(str):
    """What a list or an object in a row's JSON is stored as."""


def to_cell(value: Any, kind: pa.DataType) -> Any:
    """A value of `parse_fields` as a cell of a column of type `kind`; None where it does not fit.
    A column of texts holds numbers as their JSON text."""
    if value is None:
        return None
    if kind == pa.string():
        return str(value) if isinstance(value, str) else json.dumps(value)
    if kind == pa.bool_():
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind == pa.int64():
        return value if isinstance(value, int) and -(2**63) <= value < 2**63 else None
    try:
        return float(value)
    except OverflowError:
        return None


def parse_fields(data: bytes | None) -> dict[str, Any] | None:
    """A row's JSON object: scalars as they are, the others as JsonText, all texts sound UTF-8;
    None when it is no object, too large or otherwise unusable."""
    if data is None or len(data) > MAX_TEXT_BYTES:
        return None
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            return None
        return {_sound(name): _sound(_scalar(item)) for name, item in value.items()}
    # What is nested too deeply may be read and then not be written.
    except (ValueError, RecursionError):
        return None


def _scalar(value: Any) -> Any:
    if isinstance(value, list | dict):
        return JsonText(json.dumps(value, ensure_ascii=False, sort_keys=True))
    return value


def _sound(value: Any) -> Any:
    """A text without lone surrogates, which JSON can spell and UTF-8 cannot hold."""
    if isinstance(value, str) and not value.isascii():
        sound = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return type(value)(sound)
    return value
