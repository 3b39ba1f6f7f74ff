"""Staging: text lists become Parquet, with nothing lost and nothing guessed wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.pipeline import text_stream
from facecap.pipeline.errors import UsageError
from facecap.pipeline.plan import make_plan, read_footers
from facecap.pipeline.sources import find_sources
from facecap.pipeline.staging import stage
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.store import Store


def staged(path: Path, output: Path, **options: str) -> pa.Table:
    (source,) = find_sources(str(path))
    return pq.read_table(stage(source, Store(output), InputOptions(**options)))


def test_csv_with_quotes_newlines_and_words_that_look_like_nulls(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('url,caption,similarity\nhttp://h/1,"a ""b"",\nc",0.5\nhttp://h/2,NA,0.25\n')
    table = staged(path, tmp_path / "out")
    assert table["caption"].to_pylist() == ['a "b",\nc', "NA"]
    assert table["similarity"].to_pylist() == ["0.5", "0.25"]


def test_numbers_as_captions_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("url,TEXT\nhttp://h/1,007\n")
    assert staged(path, tmp_path / "out")["TEXT"].to_pylist() == ["007"]
    path = tmp_path / "b.csv"
    path.write_text("url,words\nhttp://h/1,007\n")
    assert staged(path, tmp_path / "out", caption_column="words")["words"].to_pylist() == ["007"]


def test_a_csv_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [["007", "00012345678901234567890"], ["", "1e3"], ["x", "2020-01-01"]]
    path.write_text("url,w,id\n" + "".join(f"http://h/,{w},{i}\n" for w, i in rows))
    table = staged(path, tmp_path / "out")
    assert [[r["w"], r["id"]] for r in table.to_pylist()] == rows


def test_csvs_of_different_looks_are_one_list(tmp_path: Path) -> None:
    for name, width in (("a", "3"), ("b", "3.5"), ("c", "wide"), ("d", "")):
        (tmp_path / f"{name}.csv").write_text(f"url,width\nhttp://h/{name},{width}\n")
    options = InputOptions()
    paths = [stage(s, Store(tmp_path / "out"), options) for s in find_sources(str(tmp_path))]
    plan = make_plan(read_footers(paths), options, "the list", None, None)
    assert plan.rows == 4 and plan.extra == pa.schema([("width", pa.string())])


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
    first = Path(stage(source, Store(tmp_path / "out"), InputOptions()))
    stamp = first.stat().st_mtime_ns
    assert Path(stage(source, Store(tmp_path / "out"), InputOptions())) == first
    assert first.stat().st_mtime_ns == stamp
    assert [p.name for p in first.parent.iterdir()] == [first.name]


def test_a_jsonl_field_may_first_appear_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 64)
    path = tmp_path / "a.jsonl"
    rows = [{"url": f"http://h/{n}", "w": n, "about": {"a": 1}} for n in range(20)]
    late = {"url": "http://h/x", "w": 0.5, "about": {"a": None, "b": [1]}, "new": "2020-01-01"}
    lines = [json.dumps(row) for row in [*rows, late]]
    path.write_text("\n\n".join(lines) + "\n" * 200)
    table = staged(path, tmp_path / "out")
    assert table["url"].to_pylist() == [row["url"] for row in [*rows, late]]
    assert table["w"].to_pylist() == [*range(20), 0.5]
    assert table["new"].to_pylist() == [None] * 20 + ["2020-01-01"]
    assert table["about"].to_pylist()[-2:] == [{"a": 1, "b": None}, {"a": None, "b": [1]}]


def test_json_text_that_looks_like_a_time_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"url": "http://h/1", "day": "2020-01-01", "at": [{"t": "2020-01-01 10:00:00"}]}
    path.write_text(json.dumps(row) + "\n")
    assert staged(path, tmp_path / "out").to_pylist() == [row]


def test_a_corrected_list_is_staged_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("url\nhttp://h/1\n")
    assert staged(path, tmp_path / "out")["url"].to_pylist() == ["http://h/1"]
    stamp = path.stat().st_mtime_ns
    path.write_text("url\nhttp://h/9\n")
    os.utime(path, ns=(stamp, stamp + 1_000_000_000))
    assert staged(path, tmp_path / "out")["url"].to_pylist() == ["http://h/9"]


def test_a_column_named_after_a_refusal_is_staged_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"link": "http://h/1", "words": null}\n')
    assert staged(path, tmp_path / "out").schema.field("words").type == pa.null()
    table = staged(path, tmp_path / "out", url_column="link", caption_column="words")
    assert table.schema.field("words").type == pa.string()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"\n"),
        ("a.csv", b"url,caption\nhttp://h/1\n"),
        ("a.csv", b"url,url\nhttp://h/1,x\n"),
        ("a.csv", b'url\n"' + b"http://h/1\n" * 2_000_000),
        ("a.csv", "url\nhttp://h/1\n".encode("utf-16")),
        ("a.tsv.gz", b"\x1f\x8b\x08"),
        ("a.txt.gz", gzip.compress(b"http://h/1\n" * 1000, mtime=0)[:-9]),
        ("a.txt", b"http://h/1" * 2_000_000),
        ("a.json", b"[]"),
        ("a.json", b'[{"url": "http://h/1"}'),
        ("a.json", b'{"url": {"0": "http://h/1"}}'),
        ("a.jsonl", b"\n\n"),
        ("a.jsonl", b'{"url": "http://h/1"\n'),
        ("a.jsonl", b'{"url": "x", "w": 1, "w": 2}\n'),
        ("a.jsonl", b"<html></html>"),
    ],
)
def test_unreadable_files_are_named_and_leave_nothing(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")) as refused:
        staged(path, tmp_path / "out")
    assert list((tmp_path / "out" / "_input").iterdir()) == []
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


URL_ROWS = [{"url": "http://h/1", "caption": "one"}, {"url": "http://h/2", "caption": "naïve ☃"}]
FORMS = {
    "a.csv": "url,caption\nhttp://h/1,one\nhttp://h/2,naïve ☃\n",
    "a.tsv": "url\tcaption\nhttp://h/1\tone\r\nhttp://h/2\tnaïve ☃",
    "a.json": json.dumps(URL_ROWS, indent=2),
    "b.json": "\n".join(json.dumps(row) for row in URL_ROWS),
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in URL_ROWS),
    "a.ndjson": "\n \n".join(json.dumps(row) for row in URL_ROWS),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_format_plain_and_gzipped(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / (name + suffix)
    data = FORMS[name].encode()
    path.write_bytes(gzip.compress(data) if suffix else data)
    assert staged(path, tmp_path / "out").to_pylist() == URL_ROWS


@pytest.mark.parametrize("suffix", ["", ".GZ"])
def test_a_txt_holds_a_url_on_each_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    data = b'http://h/1\r\n\n  http://h/2,"x"\t\nhttp://h/caf\xe9'
    path.write_bytes(gzip.compress(data) if suffix else data)
    urls = ["http://h/1", 'http://h/2,"x"', "http://h/caf\ufffd"]
    assert staged(path, tmp_path / "out").to_pydict() == {"url": urls}
    assert staged(path, tmp_path / "out", url_column="link").to_pydict() == {"link": urls}


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('url\tTEXT\nu1\t"big\nu2\tsmall"\r\nu3\t"c ""d"""\n')
    table = staged(path, tmp_path / "out")
    assert table["url"].to_pylist() == ["u1", "u2", "u3"]
    assert table["TEXT"].to_pylist() == ['"big', 'small"', '"c ""d"""']


def test_a_txt_of_an_old_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 64)
    path = tmp_path / "a.txt"
    urls = [f"http://h/{n}" for n in range(20)]
    path.write_bytes("\r".join(urls).encode() + b"\r\r")
    assert staged(path, tmp_path / "out").to_pydict() == {"url": urls}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_utf16_without_a_mark_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(FORMS.get(name, "http://h/1\nhttp://h/2\n").encode(encoding))
    with pytest.raises(UsageError, match="is UTF-16 text; save it as UTF-8"):
        staged(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"url,caption\nhttp://h/1,caf\xe9\nhttp://h/2,ok\n"),
        ("a.tsv", b"url\tcaption\nhttp://h/1\tcaf\xe9\nhttp://h/2\tok\n"),
        (
            "a.jsonl",
            b'{"url":"http://h/1","caption":"caf\xe9"}\n{"url":"http://h/2","caption":"ok"}',
        ),
        (
            "a.json",
            b'[{"url":"http://h/1","caption":"caf\\ud800"},{"url":"http://h/2","caption":"ok"}]',
        ),
    ],
)
def test_bad_text_costs_its_cell_alone(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    table = staged(tmp_path / name, tmp_path / "out")
    assert table["caption"].to_pylist() == ["caf\ufffd", "ok"]


def test_only_lone_surrogates_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"url":"\ud83d\ude00 \\ud800 \uD800\ud83d\ude00 \udc00 \u00e9 \\\ud800"}')
    (row,) = staged(path, tmp_path / "out").to_pylist()
    assert row["url"] == "\U0001f600 \\ud800 \ufffd\U0001f600 \ufffd \xe9 \\\ufffd"


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["a.csv", "a.tsv", "a.txt", "a.json", "a.jsonl"]),
    data=st.binary(min_size=1, max_size=80)
    | st.text('url\n\r,\t"[]{}:\\1e. http', min_size=1, max_size=80).map(str.encode),
)
def test_any_bytes_are_a_list_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / name).write_bytes(data)
    try:
        table = staged(folder / name, folder / "out")
    except UsageError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert table.num_columns
