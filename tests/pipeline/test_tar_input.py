"""Planning of tars: which shard is which tar, which columns there are, what is refused and why."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from facecap.pipeline.errors import UsageError
from facecap.pipeline.sources import SourceFile, find_sources
from facecap.pipeline.tar_input import MAX_TARS, TarPlan, describe_tars, plan_tars
from facecap.schemas.shard import MAX_ROWS_PER_SHARD, ShardSpec
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.read_tars import read_tar
from facecap.transforms.tar_columns import MAX_COLUMNS
from tests.samples import jpeg
from tests.tars import row, tar_of, write_tar

MAX_BYTES = 1 << 20
AS_IMG2DATASET = {"key", "status", "error_message", "width", "exif"}
"""The further fields of each JSON that tests.tars.row writes."""


def plan(
    location: Path, limit: int | None = None, per_shard: int | None = None, **options: Any
) -> TarPlan:
    """The plan of a file or folder, as a build makes it."""
    sources = find_sources(str(location))
    return plan_tars(sources, InputOptions(**options), limit, per_shard, MAX_BYTES)


def refusal(location: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        plan(location, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def tar(path: Path, *scores: Any) -> Path:
    """A tar with a row for each of `scores`, its JSON field `similarity`."""
    rows = (
        row(f"{n:05d}", jpeg(n), f"http://h.example/{n}.jpg", f"alt {n}", similarity=score)
        for n, score in enumerate(scores)
    )
    return write_tar(path, rows)


def outcomes(planned: TarPlan) -> list[list[str]]:
    """Of each shard of the plan what became of its rows when they were read."""
    return [
        [
            sample.drop.reason.value if sample.drop else "live"
            for batch in read_tar(spec, planned.columns, MAX_BYTES, 4)
            for sample in batch.samples
        ]
        for spec in planned.specs()
    ]


# Shards and columns


def test_one_tar_is_one_shard_with_a_million_rows_to_itself(tmp_path: Path) -> None:
    for name in ("2.tar", "0.tar", "1.tar"):
        tar(tmp_path / name, 0.5)
    planned = plan(tmp_path)
    assert (planned.shards, planned.rows, planned.rows_per_shard) == (3, None, 1_000_000)
    urls = [f"file://{tmp_path}/{k}.tar" for k in range(3)]
    assert planned.specs() == [ShardSpec(k, k * 1_000_000, (), urls[k]) for k in range(3)]
    assert planned.specs()[2].first_row == 2 * MAX_ROWS_PER_SHARD
    assert outcomes(planned) == [["live"]] * 3


def test_the_json_fields_are_the_columns(tmp_path: Path) -> None:
    planned = plan(tar(tmp_path / "a.tar", 1, 0.25, None))
    assert set(planned.extra.names) == {*AS_IMG2DATASET, "similarity"}
    assert planned.extra.field("similarity").type == pa.float64()
    assert planned.extra.field("key").type == pa.string()
    named = plan(tmp_path / "a.tar", url_column="key", caption_column="status")
    assert (named.columns.url, named.columns.caption) == ("key", "status")
    assert {"url", "caption"} <= set(named.extra.names)
    assert not {"key", "status"} & set(named.extra.names)


@pytest.mark.parametrize("empty", [tar_of([]), bytes(512), tar_of([("README.md", b"no row")])])
def test_an_empty_tar_is_a_shard_and_the_next_one_tells_the_columns(
    tmp_path: Path, empty: bytes
) -> None:
    (tmp_path / "0.tar").write_bytes(empty)
    tar(tmp_path / "1.tar", 0.25, 0.75)
    tar(tmp_path / "2.tar", "not looked at")
    planned = plan(tmp_path, where="similarity > 0.5")
    assert planned.shards == 3
    assert planned.extra.field("similarity").type == pa.float64()
    assert outcomes(planned)[:2] == [[], ["filtered", "live"]]


def test_many_empty_tars_before_the_first_row_change_nothing(tmp_path: Path) -> None:
    for number in range(12):
        tar(tmp_path / f"{number:02d}.tar")
    tar(tmp_path / "12.tar", 0.25)
    assert "similarity" in plan(tmp_path, where="similarity > 0.5").extra.names


@pytest.mark.parametrize("setting", ["url_column", "caption_column"])
def test_a_named_column_that_no_row_has_is_refused(tmp_path: Path, setting: str) -> None:
    found = refusal(tar(tmp_path / "a.tar", 0.25), **{setting: "nosuch"})
    assert found.startswith(f"input.{setting}: ") and "'nosuch'" in found
    assert "caption, error_message" in found, "what there is"


def test_tars_without_any_row_have_no_columns(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        tar(tmp_path / name)
    planned = plan(tmp_path)
    assert (planned.shards, planned.extra.names, outcomes(planned)) == (2, [], [[], []])


def test_the_first_tar_with_rows_decides(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", 1)
    tar(tmp_path / "1.tar", "a text")
    assert plan(tmp_path).extra.field("similarity").type == pa.int64()


# input.where


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("similarity >= 0.5", ["filtered", "live", "filtered", "live"]),
        ("SIMILARITY < 0.5", ["live", "filtered", "filtered", "filtered"]),
        ("similarity IS NULL", ["filtered", "filtered", "live", "filtered"]),
        ("caption = 'alt 3' OR url LIKE '%/0.jpg'", ["live", "filtered", "filtered", "live"]),
        ("CAST(key AS INTEGER) % 2 = 1", ["filtered", "live", "filtered", "live"]),
    ],
)
def test_a_condition_over_the_json_picks_the_rows(
    tmp_path: Path, where: str, expected: list[str]
) -> None:
    planned = plan(tar(tmp_path / "a.tar", 0.25, 0.5, None, 1), where=where)
    assert outcomes(planned) == [expected]


def test_without_a_condition_all_rows_are_read(tmp_path: Path) -> None:
    planned = plan(tar(tmp_path / "a.tar", 0.25, 0.5))
    assert planned.columns.where is None and outcomes(planned) == [["live", "live"]]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("punsafe < 0.5", r"no column 'punsafe'; the columns are: .*similarity \(double\)"),
        ("similarity LIKE 'x%'", r"write CAST\("),
        ("similarity", r"is DOUBLE, not true or false"),
        ("similarity >", r"no SQL expression"),
        ("", r"is empty; leave it out"),
    ],
)
def test_a_condition_that_does_not_fit_is_named(tmp_path: Path, where: str, message: str) -> None:
    found = refusal(tar(tmp_path / "a.tar", 0.25), where=where)
    assert found.startswith("input.where: ")
    assert re.search(message, found), found


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_shard": 100}, "build.rows_per_shard: one tar of the input is one shard; leave it"),
        ({"limit": 5}, "--limit: tars are counted while they are read; name fewer tars instead"),
        ({"sample_ids": "ids.txt"}, "input.sample_ids: is for lists; choose rows of tars by inp"),
    ],
)
def test_settings_that_need_the_number_of_rows_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    assert refusal(tar(tmp_path / "a.tar", 0.5), **options).startswith(message)


def test_more_tars_than_a_key_can_number_are_refused_unread() -> None:
    sources = [SourceFile("file:///nosuch.tar", "tar", 512)] * (MAX_TARS + 1)
    with pytest.raises(UsageError, match="--input: 1000001 tars, at most 1000000 can be one"):
        plan_tars(sources, InputOptions(), None, None, MAX_BYTES)


def test_a_tar_that_went_away_is_named(tmp_path: Path) -> None:
    source = SourceFile(f"file://{tmp_path}/gone.tar", "tar", 512)
    with pytest.raises(UsageError, match=r"--input file://.*gone\.tar: .*No such file"):
        plan_tars([source], InputOptions(), None, None, MAX_BYTES)


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff" * 400, b"<html>not found</html>", b"\0" * 100 + b"x" * 412]
)
@pytest.mark.parametrize("at", [0, 1, 12])
def test_a_file_that_is_no_tar_is_named_wherever_it_lies(
    tmp_path: Path, data: bytes, at: int
) -> None:
    for number in range(13):
        tar(tmp_path / f"{number:02d}.tar", 0.5)
    (tmp_path / f"{at:02d}.tar").write_bytes(data)
    message = f"--input file://{tmp_path}/{at:02d}.tar: is not a tar archive; replace it, or take"
    assert refusal(tmp_path).startswith(message)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("name", ["1.tar", "1.tar.gz", "1.tgz"])
def test_a_compressed_tar_is_to_be_decompressed(tmp_path: Path, pack: Any, name: str) -> None:
    whole = tar(tmp_path / "0.tar", 0.5).read_bytes()
    (tmp_path / name).write_bytes(pack(whole))
    found = refusal(tmp_path)
    assert found.startswith(f"--input file://{tmp_path}/{name}: ")
    assert "decompress it first" in found


def test_too_many_json_fields_are_one_line(tmp_path: Path) -> None:
    fields: dict[str, Any] = {f"f{n}": n for n in range(MAX_COLUMNS)}
    path = write_tar(tmp_path / "a.tar", [row("0", jpeg(0), "http://h/", **fields)])
    found = refusal(path)
    assert found.startswith(f"--input file://{path}: ") and f"more than {MAX_COLUMNS} JSON" in found


def test_the_files_of_img2dataset_beside_its_tars_are_no_input(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", 0.5)
    (tmp_path / "0.parquet").write_bytes(b"beside the tar")
    (tmp_path / "0_stats.json").write_text("{}")
    assert plan(tmp_path).tars == (f"file://{tmp_path}/0.tar",)
    (tmp_path / "1.parquet").write_bytes(b"beside no tar")
    found = refusal(tmp_path)
    assert "holds tars and lists" in found and "1.parquet" in found and "by a glob" in found


# The fingerprint


def test_what_enters_the_fingerprint(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", 0.5)
    tar(tmp_path / "1.tar", 0.5, 0.6)
    sources, planned = find_sources(str(tmp_path)), plan(tmp_path)
    described = describe_tars(sources, planned)
    assert described["files"] == [
        {
            "path": f"file://{tmp_path}/{name}",
            "bytes": (tmp_path / name).stat().st_size,
            "rows": None,
        }
        for name in ("0.tar", "1.tar")
    ]
    assert described["columns"]["similarity"] == "double"
    assert set(described["columns"]) == {*AS_IMG2DATASET, "similarity"}
    assert (described["limit"], described["rows"]) == (None, None)
    assert set(described) == {"files", "columns", "limit", "rows"}
    assert json.loads(json.dumps(described)) == described


def test_another_size_or_another_column_is_another_input(tmp_path: Path) -> None:
    def described() -> dict[str, Any]:
        return describe_tars(find_sources(str(tmp_path)), plan(tmp_path))

    tar(tmp_path / "0.tar", 0.5)
    tar(tmp_path / "1.tar", 0.5)
    first = described()
    assert described() == first
    tar(tmp_path / "1.tar", *[0.5] * 20)
    longer = described()
    assert longer != first and longer["columns"] == first["columns"]
    tar(tmp_path / "0.tar", "a text")
    assert described()["columns"] == {**first["columns"], "similarity": "string"}
