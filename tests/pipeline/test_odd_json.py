"""JSON lists with columns that no one type holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from facecap.pipeline import text_stream
from facecap.pipeline.errors import UsageError
from facecap.pipeline.sources import find_sources
from facecap.pipeline.staging import stage
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.store import Store


def staged(tmp_path: Path, text: str, name: str = "a.jsonl") -> list[dict[str, Any]]:
    (tmp_path / name).write_text(text)
    (source,) = find_sources(str(tmp_path / name))
    rows: list[dict[str, Any]] = pq.read_table(
        stage(source, Store(tmp_path / "out"), InputOptions())
    ).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("name", "block_bytes"), [("a.jsonl", 48), ("a.jsonl", 8 << 20), ("a.json", 8 << 20)]
)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "s", None], ["1", "s", None]),
        (["s", 1.5], ["s", "1.5"]),
        ([True, 2], ["true", "2"]),
        ([1, {"a": "\u00e9"}], ["1", '{"a": "\u00e9"}']),
        ([[1], ["s"]], ["[1]", '["s"]']),
        ([{"a": 1}, {"a": "s"}], ['{"a": 1}', '{"a": "s"}']),
        ([{}, {}], ["{}", "{}"]),
        ([{"a": [{}]}, None], ['{"a": [{}]}', None]),
        ([{}, {"a": 1}], [{"a": None}, {"a": 1}]),
        ([1, 2.5], [1.0, 2.5]),
        (["2020-01-01", 3, "\ud800"], ["2020-01-01", "3", "\ufffd"]),
    ],
)
def test_a_column_of_two_types_is_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: list[object],
    expected: list[object],
    name: str,
    block_bytes: int,
) -> None:
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", block_bytes)
    rows = [{"url": f"http://h/{n}{'x' * 30}", "x/y": v} for n, v in enumerate(values)]
    text = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
    found = staged(tmp_path, text, name)
    assert [row["x/y"] for row in found] == expected
    assert [row["url"] for row in found] == [row["url"] for row in rows]


def test_a_url_that_is_a_number_costs_its_row_alone(tmp_path: Path) -> None:
    found = staged(tmp_path, '{"url": 5, "text": 7}\n{"url": "http://h/", "text": ["a"]}')
    assert found == [{"url": "5", "text": "7"}, {"url": "http://h/", "text": '["a"]'}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"url": {"0": "http://h/"}}', "column 'url' holds struct.* one object for each row"),
        ('{"url": "a", "x": 1, "x": 2}', r"Column\(/x\) was specified twice.*; remove one"),
        ('{"url": "a", "x": 1}\n{"url": "b", "x": "s", "y": nan}', "a.jsonl: "),
    ],
)
def test_what_cannot_be_read_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        staged(tmp_path, text)
    assert "\n" not in str(refused.value)
