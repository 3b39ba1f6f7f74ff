"""Reading tars: consecutive members of a key are a row, every row is counted, nothing is mixed."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from facecap.schemas.outcomes import Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import MAX_ROWS_PER_SHARD, ShardSpec
from facecap.transforms import read_tars
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.read_tars import key_and_kind, peek, read_tar, rows_of
from facecap.transforms.tar_columns import TarColumns
from facecap.transforms.where import check
from tests.samples import jpeg
from tests.tars import row, tar_of, write_tar

MAX_BYTES = 1 << 20
COLUMNS = TarColumns("url", None, pa.schema([("similarity", pa.float64())]))


def spec(path: Path, number: int = 3) -> ShardSpec:
    return ShardSpec(number, number * MAX_ROWS_PER_SHARD, (), str(path))


def read(
    path: Path, columns: TarColumns = COLUMNS, batch: int = 4, **more: Any
) -> tuple[list[SampleBatch], list[Sample]]:
    batches = list(read_tar(spec(path), columns, MAX_BYTES, batch, **more))
    return batches, [sample for b in batches for sample in b.samples]


def outcomes(samples: list[Sample]) -> list[str]:
    return [s.drop.reason.value if s.drop else "live" for s in samples]


def members(path: Path, *found: tuple[str, bytes]) -> Path:
    path.write_bytes(tar_of(found))
    return path


def about(url: str = "http://h/a.jpg", **more: Any) -> bytes:
    return json.dumps({"url": url, "caption": "from json", **more}).encode()


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_rows_of_a_tar_are_counted_in_its_last_batch(tmp_path: Path, count: int) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [
            row(f"{n:05d}", jpeg(n), f"http://h/{n}", f"c{n}", similarity=n / 9)
            for n in range(count)
        ],
    )
    batches, samples = read(path)
    assert [b.shard_rows for b in batches] == [None] * (len(batches) - 1) + [count]
    assert all(b.failure is None for b in batches)
    first = 3 * MAX_ROWS_PER_SHARD
    assert [s.row for s in samples] == list(range(first, first + count))
    for n, sample in enumerate(samples):
        assert (sample.url, sample.source_caption) == (f"http://h/{n}", f"c{n}")
        assert sample.extra == {"similarity": n / 9} and sample.drop is None
        assert sample.fetched is not None and sample.fetched.http_status is None
        assert sample.fetched.body == jpeg(n)
        assert sample.fetched.sha256 == hashlib.sha256(jpeg(n)).hexdigest()


def test_every_broken_row_has_its_reason(tmp_path: Path) -> None:
    image = jpeg(0)
    path = members(
        tmp_path / "a.tar",
        *(("0.jpg", image), ("0.json", about())),
        *(("1.jpg", image), ("1.json", b"not json")),
        *(("2.jpg", image), ("2.json", b"[1]")),
        *(("3.jpg", image), ("3.json", about(url=""))),
        ("4.jpg", image),
        *(("5.json", about()), ("5.txt", b"alt")),
        *(("6.jpg", b""), ("6.json", about())),
        *(("7.jpg", bytes(MAX_BYTES + 1)), ("7.json", about())),
        *(("8.jpg", image), ("8.json", b'{"url": ["http://h/a"]}')),
        *(("9.jpg", image), ("9.json", b" " * (2 << 20))),
    )
    _, samples = read(path)
    assert outcomes(samples) == [
        "live",
        "bad_metadata",
        "bad_metadata",
        "missing_url",
        "missing_url",
        "missing_image",
        "empty_body",
        "too_large",
        "missing_url",
        "bad_metadata",
    ]
    assert {s.drop.stage for s in samples if s.drop} == {Stage.READ, Stage.DOWNLOAD}
    assert all(s.fetched is None for s in samples if s.drop)


def test_the_text_is_the_caption_before_the_json(tmp_path: Path) -> None:
    image = jpeg(0)
    path = members(
        tmp_path / "a.tar",
        *(("0.jpg", image), ("0.json", about()), ("0.txt", b"alt \xff")),
        *(("1.jpg", image), ("1.json", about())),
        *(("2.jpg", image), ("2.json", about(alt="named")), ("2.txt", b"alt")),
    )
    assert [s.source_caption for s in read(path)[1]] == ["alt �", "from json", "alt"]
    named = TarColumns("url", "alt", pa.schema([]))
    assert [s.source_caption for s in read(path, named)[1]] == [None, None, "named"]


def test_interleaved_keys_are_never_mixed(tmp_path: Path) -> None:
    path = members(
        tmp_path / "a.tar",
        ("0.jpg", jpeg(0)),
        ("1.jpg", jpeg(1)),
        ("0.json", about("http://h/0")),
        ("1.json", about("http://h/1")),
    )
    _, samples = read(path)
    assert outcomes(samples) == ["missing_url", "missing_url", "missing_image", "missing_image"]


def test_a_name_that_comes_again_begins_a_new_row(tmp_path: Path) -> None:
    path = members(
        tmp_path / "a.tar",
        *(("0.jpg", jpeg(0)), ("0.json", about("http://h/0"))),
        *(("0.jpg", jpeg(1)), ("0.json", about("http://h/1"))),
    )
    _, samples = read(path)
    assert [(s.url, s.fetched and s.fetched.body) for s in samples] == [
        ("http://h/0", jpeg(0)),
        ("http://h/1", jpeg(1)),
    ]


def test_of_several_images_the_first_is_taken(tmp_path: Path) -> None:
    path = members(
        tmp_path / "a.tar",
        *(("0.seg.png", b"x"), ("0.webp", jpeg(0)), ("0.jpg", jpeg(1)), ("0.json", about())),
        *(("README", b"x"), (".hidden.jpg", b"x"), ("notes.md", b"x"), ("dir/", b"")),
    )
    ((sample,), _) = [b.samples for b in read(path)[0]] + [()]
    assert sample.fetched is not None and sample.fetched.body == jpeg(0)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("00000.jpg", ("00000", "jpg")),
        ("./a/b.c/1.JPEG", ("./a/b.c/1", "jpeg")),
        ("1.x.jpg", (None, "x.jpg")),
        ("1", (None, "")),
        (".jpg", (None, "")),
        ("a.b/c", (None, "")),
        ("1.json", ("1", "json")),
        ("a/" * 20_000 + "x", (None, "")),
        ("a" * 60_000, (None, "")),
    ],
)
def test_the_key_is_webdatasets(name: str, key: tuple[str | None, str]) -> None:
    assert key_and_kind(name) == key


def test_a_cut_tar_keeps_the_rows_before_and_counts_the_cut_one(tmp_path: Path) -> None:
    whole = write_tar(
        tmp_path / "a.tar", [row(f"{n}", jpeg(n), f"http://h/{n}", "c") for n in range(4)]
    ).read_bytes()
    for length in range(1, len(whole), 97):
        found = list(rows_of(io.BytesIO(whole[:length]), MAX_BYTES))
        sound = [r for r in found if r.damage is None]
        assert len(found) <= 4 or length > len(whole) - 10_240
        assert [r.key for r in sound] == [str(n) for n in range(len(sound))]
        assert all(r.image and r.json and r.text for r in sound)
        assert len(found) - len(sound) == (0 if len(sound) == 4 else 1)


def test_damage_before_any_row_is_a_row_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    good = tar_of([("0.jpg", jpeg(0)), ("0.json", about())])
    path.write_bytes(b"\x01" * 1024 + good)
    _, samples = read(path)
    assert outcomes(samples) == ["damaged_tar", "live"]
    assert samples[0].drop is not None and samples[0].drop.error == "bad header"


def test_rows_that_crashed_twice_are_not_touched_again(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [row(f"{n}", jpeg(n), "http://h") for n in range(3)])
    crashed = frozenset({3 * MAX_ROWS_PER_SHARD + 1})
    _, samples = read(path, crashed=crashed)
    assert outcomes(samples) == ["live", "decode_crashed", "live"]
    assert samples[1].fetched is None


def test_a_file_that_cannot_be_read_fails_its_shard(tmp_path: Path) -> None:
    ((batch,), samples) = read(tmp_path / "gone.tar")
    assert batch.failure is not None and "gone.tar" in batch.failure
    assert (batch.shard_rows, samples) == (0, [])


def test_more_rows_than_a_key_can_name_fail_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "a.tar", [row(f"{n}", jpeg(n), "http://h") for n in range(3)])
    monkeypatch.setattr(read_tars, "MAX_ROWS_PER_SHARD", 2)
    (batch,) = read_tar(spec(path), COLUMNS, MAX_BYTES, 4)
    assert batch.failure is not None and "more than 2 rows; split it" in batch.failure
    assert batch.shard_rows == 2 == len(batch)


def test_batches_hold_a_bounded_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_tars, "MAX_BATCH_BYTES", 2500)
    rows = [row(f"{n}", bytes([n]) * 1000, "http://h") for n in range(5)]
    batches, _ = read(write_tar(tmp_path / "a.tar", rows))
    assert [len(b) for b in batches] == [2, 2, 1]


def test_the_condition_is_applied_to_what_was_read(tmp_path: Path) -> None:
    path = members(
        tmp_path / "a.tar",
        *(("0.jpg", jpeg(0)), ("0.json", about(similarity=0.1))),
        *(("1.jpg", jpeg(1)), ("1.json", about(similarity=0.9))),
        *(("2.jpg", jpeg(2)), ("2.json", about())),
        *(("3.jpg", jpeg(3)), ("3.json", b"{")),
        *(("4.jpg", b""), ("4.json", about(similarity=0.1))),
    )
    where = check("similarity > 0.5 AND url LIKE 'http%'", COLUMNS.types)
    _, samples = read(path, TarColumns("url", None, COLUMNS.extra, where))
    assert outcomes(samples) == ["filtered", "live", "filtered", "bad_metadata", "filtered"]
    assert samples[2].drop is not None and samples[2].drop.error == "NULL"
    assert samples[0].fetched is None and samples[0].drop is not None
    assert samples[0].drop.reason is Reason.FILTERED


def test_the_first_rows_tell_the_columns(tmp_path: Path) -> None:
    rows = [row(f"{n:04d}", b"x", "http://h", n=n, s=str(n)) for n in range(300)]
    found = peek(str(write_tar(tmp_path / "a.tar", rows)), MAX_BYTES)
    assert len(found) == 200
    kinds = TarColumns.of(InputOptions(), found).extra
    assert (kinds.field("n").type, kinds.field("s").type) == (pa.int64(), pa.string())
    assert kinds.names == ["key", "status", "error_message", "width", "exif", "n", "s"]


def test_what_does_not_fit_its_column_is_null_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_tars, "_told", set())
    rows = [
        row(f"{n:04d}", b"x", "http://h", similarity=value)
        for n, value in enumerate([0.5, "a text", None, [1]])
    ]
    _, samples = read(write_tar(tmp_path / "a.tar", rows))
    assert [s.extra["similarity"] for s in samples] == [0.5, None, None, None]
    (said,) = [r.message for r in caplog.records if "column" in r.message]
    assert said == (
        "column 'similarity' is double in the first rows of the input; values that are not "
        "become null"
    )
