"""Which files are found below a path, and what must not be passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from facecap.pipeline.errors import UsageError
from facecap.pipeline.plan import read_footers
from facecap.pipeline.sources import find_sources
from tests.pipeline.test_plan import parquet


def test_a_folder_a_glob_and_a_file_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "sub/c.parquet", "_part/x.parquet", "notes.md"):
        parquet(tmp_path / name, url=["u"])
    names = [s.path.rsplit("/", 1)[-1] for s in find_sources(str(tmp_path))]
    assert names[:2] == ["a.parquet", "b.parquet"] and "c.parquet" in names
    assert "notes.md" not in names
    globbed = find_sources(f"{tmp_path}/*.parquet")
    assert [s.path.rsplit("/", 1)[-1] for s in globbed] == ["a.parquet", "b.parquet"]
    (single,) = find_sources(f"file://{tmp_path}/a.parquet")
    assert single.size == (tmp_path / "a.parquet").stat().st_size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.parquet", "no such file"),
        ("empty", "holds no"),
        ("notes.md", "unknown format"),
        ("*.nothing", "holds no"),
    ],
)
def test_inputs_that_are_not_there_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UsageError, match=message):
        find_sources(f"{tmp_path}/{name}")


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        find_sources("nosuch://bucket/list.parquet")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "urls [v2].parquet", url=["u", "v"])
    (source,) = find_sources(path)
    assert read_footers([source.path])[0].rows == 2


def test_a_folder_that_a_glob_matches_is_read(tmp_path: Path) -> None:
    for name in ("x.parquet/part-0.parquet", "x.parquet/_temporary/0.parquet", "y.parquet"):
        parquet(tmp_path / name, url=["u"])
    names = [s.path.rsplit("/", 1)[-1] for s in find_sources(f"{tmp_path}/*.parquet")]
    assert names == ["part-0.parquet", "y.parquet"]


@pytest.mark.parametrize("name", ["b.csv", "b.jsonl", "b.parquet"])
def test_an_empty_file_is_named_with_the_remedy(tmp_path: Path, name: str) -> None:
    parquet(tmp_path / "a.parquet", url=["u"])
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=rf"{name}: the file is empty; .*take it away"):
        find_sources(str(tmp_path))


@pytest.mark.parametrize("note", ["README.txt", "stats.json"])
def test_notes_beside_a_list_are_not_taken_for_one(tmp_path: Path, note: str) -> None:
    parquet(tmp_path / "a.parquet", url=["u"])
    (tmp_path / note).write_text("{}")
    with pytest.raises(UsageError, match=r"different formats .*choose one by a glob"):
        find_sources(str(tmp_path))
    assert len(find_sources(f"{tmp_path}/*.parquet")) == 1


@pytest.mark.parametrize("end", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR.ZST"])
def test_a_compressed_tar_beside_tars_is_not_passed_over(tmp_path: Path, end: str) -> None:
    for name in ("0.tar", f"1{end}"):
        (tmp_path / name).write_bytes(b"x")
    for location in (tmp_path, tmp_path / f"1{end}"):
        with pytest.raises(UsageError, match=rf"1{end}: compressed tars .*decompress it first"):
            find_sources(str(location))
    assert [s.format for s in find_sources(f"{tmp_path}/*.tar")] == ["tar"]
