"""Staging: text lists become Parquet, with nothing lost and nothing guessed wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facecap.pipeline import staging
from facecap.pipeline.errors import UsageError
from facecap.pipeline.plan import find_sources
from facecap.pipeline.staging import stage
from facecap.transforms.read_rows import InputOptions


def staged(path: Path, output: Path, **options: str) -> pa.Table:
    (source,) = find_sources(str(path))
    return pq.read_table(stage(source, output, InputOptions(**options)))


def test_csv_with_quotes_newlines_and_words_that_look_like_nulls(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('url,caption,similarity\nhttp://h/1,"a ""b"",\nc",0.5\nhttp://h/2,NA,0.25\n')
    table = staged(path, tmp_path / "out")
    assert table["caption"].to_pylist() == ['a "b",\nc', "NA"]
    assert table["similarity"].to_pylist() == [0.5, 0.25]


def test_numbers_as_captions_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("url,TEXT\nhttp://h/1,007\n")
    assert staged(path, tmp_path / "out")["TEXT"].to_pylist() == ["007"]
    path = tmp_path / "b.csv"
    path.write_text("url,words\nhttp://h/1,007\n")
    assert staged(path, tmp_path / "out", caption_column="words")["words"].to_pylist() == ["007"]


def test_a_csv_that_breaks_its_types_later_is_staged_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "BLOCK_BYTES", 4096)
    path = tmp_path / "a.csv"
    rows = [f"http://h/{n},{n}" for n in range(1000)] + ["http://h/x,unknown"]
    path.write_text("url,width\n" + "\n".join(rows) + "\n")
    table = staged(path, tmp_path / "out")
    assert table.num_rows == 1001
    assert table["width"].to_pylist()[-2:] == ["999", "unknown"]


def test_jsonl_keeps_types_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"url": "http://h/1", "caption": "naïve ☃", "width": 3},
        {"url": "http://h/2", "caption": None, "width": None},
    ]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    assert staged(path, tmp_path / "out").to_pylist() == rows


def test_staged_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("url\nhttp://h/1\n")
    (source,) = find_sources(str(path))
    first = Path(stage(source, tmp_path / "out", InputOptions()))
    stamp = first.stat().st_mtime_ns
    assert Path(stage(source, tmp_path / "out", InputOptions())) == first
    assert first.stat().st_mtime_ns == stamp
    assert [p.name for p in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b""),
        ("a.csv", b"url,caption\nhttp://h/1\n"),
        ("a.csv", b"url\n\xff\xfe\x00\n"),
        ("a.jsonl", b""),
        ("a.jsonl", b'{"url": "http://h/1"\n'),
        ("a.jsonl", b'{"url": 3}\n{"url": "x"}\n'),
        ("a.jsonl", b"<html></html>"),
    ],
)
def test_unreadable_files_are_named_and_leave_nothing(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        staged(path, tmp_path / "out")
    assert list((tmp_path / "out" / "_input").iterdir()) == []
