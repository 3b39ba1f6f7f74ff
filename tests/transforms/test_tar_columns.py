"""The JSON of a tar's rows: hostile texts cost a cell or a row, never more."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms.read_rows import InputOptions
from facecap.transforms.tar_columns import (
    MAX_TEXT_BYTES,
    TarColumns,
    parse_fields,
    to_cell,
)

ROWS = [
    {"url": "u", "caption": "c", "a": 1, "b": 1, "c": True, "d": "x", "e": None, "f": [1]},
    {"url": "u", "a": 2, "b": 0.5, "c": None, "d": 4, "g": False},
]


def columns(rows: list[dict[str, Any]], **options: str) -> TarColumns:
    parsed = [parse_fields(json.dumps(row).encode()) or {} for row in rows]
    return TarColumns.of(InputOptions(**options), parsed)


def test_types_are_the_narrowest_that_hold_what_was_seen() -> None:
    assert columns(ROWS).extra == pa.schema(
        [
            ("a", pa.int64()),
            ("b", pa.float64()),
            ("c", pa.bool_()),
            ("d", pa.string()),
            ("e", pa.string()),
            ("f", pa.string()),
            ("g", pa.bool_()),
        ]
    )


def test_columns_can_be_named() -> None:
    found = columns(ROWS, url_column="d", caption_column="f")
    assert (found.url, found.caption) == ("d", "f")
    assert {"url", "caption"} <= set(found.extra.names) and "d" not in found.extra.names


def test_a_thousand_columns_are_the_most() -> None:
    with pytest.raises(ValueError, match="more than 1000"):
        columns([{f"c{n}": n for n in range(1001)}])


@pytest.mark.parametrize(
    ("value", "kind", "cell"),
    [
        (True, pa.int64(), None),
        (2**63, pa.int64(), None),
        (-(2**63), pa.int64(), -(2**63)),
        (0.5, pa.int64(), None),
        ("5", pa.int64(), None),
        (10**400, pa.float64(), None),
        (3, pa.float64(), 3.0),
        (1, pa.bool_(), None),
        (5, pa.string(), "5"),
        (None, pa.string(), None),
    ],
)
def test_a_value_that_does_not_fit_is_null(value: Any, kind: pa.DataType, cell: Any) -> None:
    found = to_cell(value, kind)
    assert found == cell and type(found) is type(cell)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"a": 1' + b"0" * 5000 + b"}"),
        *(b'{"a":' * 200_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        b'{"a": "' + b"x" * MAX_TEXT_BYTES + b'"}',
    ],
)
def test_what_is_no_usable_object_is_none(data: bytes) -> None:
    assert parse_fields(data) is None


def test_lone_surrogates_become_replacement_characters() -> None:
    data = rb'{"\udcff": "\ud800x", "b": ["\udc00"], "c": "\ud83d\ude00"}'
    fields = parse_fields(data)
    assert fields == {"�": "�x", "b": '["�"]', "c": "😀"}


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        max_size=4,
    ),
    st.sampled_from([pa.int64(), pa.float64(), pa.bool_(), pa.string()]),
)
def test_every_cell_can_be_stored(value: dict[str, Any], kind: pa.DataType) -> None:
    fields = parse_fields(json.dumps(value).encode())
    if fields is None:  # an integer of over 4,300 digits
        return
    cells = [to_cell(item, kind) for item in fields.values()]
    assert len(pa.array(cells, kind)) == len(fields)
