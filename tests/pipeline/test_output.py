"""The output folder: who may work in it, what it was made with, what killed runs leave."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from facecap.pipeline import output
from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import BuildFile, claim, lock, shared_lock_and_cleaning
from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.shard import commit_file
from facecap.transforms import worker
from facecap.transforms.store import Store

BUILD = BuildFile(
    fingerprint="f",
    rows_per_shard=10,
    shards=2,
    settings={"crop.min_side": 128, "caption.seed": 0},
    models={"detect.model": "aa"},
    input={"rows": 20, "limit": None},
)


def test_a_new_folder_is_claimed_and_agrees_with_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    claim(store, BUILD)
    claim(store, BUILD)
    assert output.read_build_file(store) == BUILD


def test_another_fingerprint_is_refused_and_names_what_differs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    claim(store, BUILD)
    before = store.read("build.json")
    other = BUILD.model_copy(
        update={
            "settings": {"crop.min_side": 96, "caption.seed": 0},
            "models": {"detect.model": "bb"},
            "input": {"rows": 20, "limit": 7},
        }
    )
    with pytest.raises(UsageError) as refused:
        claim(store, other)
    message = str(refused.value)
    assert "crop.min_side (was 128, is 96)" in message
    assert 'models detect.model (was "aa", is "bb")' in message
    assert "input limit (was null, is 7)" in message
    assert "caption.seed" not in message
    assert store.read("build.json") == before


def test_a_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        claim(Store(tmp_path), BUILD)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"fingerprint": 3}'])
def test_a_damaged_build_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "build.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"build\.json: not readable"):
        claim(Store(tmp_path), BUILD)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_LOCK_PATIENCE_S", 0.2)
    monkeypatch.setattr(output, "_END_PATIENCE_S", 0.2)


def test_builds_share_and_every_other_command_is_exclusive(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with shared_lock_and_cleaning(store), shared_lock_and_cleaning(store):
        with pytest.raises(UsageError, match="at work here"), lock(store, exclusive=True):
            pass
    with lock(store, exclusive=True):
        pass


def test_a_build_waits_no_longer_than_its_patience(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with lock(store, exclusive=True):
        with pytest.raises(UsageError, match="at work here"), shared_lock_and_cleaning(store):
            pass


def test_leftovers_are_cleared_but_an_unfinished_commit_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    claim(store, BUILD)
    for name in ("000000-dead/tar", "000001-won/tar", "000001-lost/tar", "garbage/x"):
        with store.write(f"_attempts/{name}") as file:
            file.write(b"x")
    record = CommitRecord(shard=1, attempt="000001-won", fingerprint="f", files={}, counts=Counts())
    store.create(commit_file(1), record.to_json())
    store.path("commits/.000000.json.abc").write_bytes(b"half")
    for name in ("_input/ab.parquet", "_input/.cd.123"):
        with store.write(name) as file:
            file.write(b"x")
    with shared_lock_and_cleaning(store):
        assert store.list("_attempts") == ["000001-won"]
        assert store.list("commits") == ["000001.json"]
        assert store.list("_input") == ["ab.parquet"]


def test_a_racing_builds_attempts_are_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with shared_lock_and_cleaning(store):
        with store.write("_attempts/000000-live/tar") as file:
            file.write(b"x")
        with shared_lock_and_cleaning(store):
            assert store.list("_attempts") == ["000000-live"]
        assert store.list("_attempts") == ["000000-live"]
    assert not store.exists("_attempts")


def crashed_run(store: Store, name: str, rows: list[int], trace: str) -> None:
    folder = store.path("_progress") / name
    folder.mkdir(parents=True)
    (folder / worker.RUN_LOCK).touch()
    (folder / "17.crash").write_text(trace)
    (folder / "17.rows").write_bytes(b"".join(struct.pack("<q", r) for r in [*rows, -1]))


def test_a_row_is_given_up_after_two_native_crashes_and_not_after_kills(tmp_path: Path) -> None:
    store = Store(tmp_path)
    crashed_run(store, "one", [7], "Fatal Python error: Segmentation fault")
    with shared_lock_and_cleaning(store) as given_up:
        assert given_up == frozenset()
    for name in ("two", "three"):
        crashed_run(store, name, [5], "")  # SIGKILL leaves no trace
        with shared_lock_and_cleaning(store) as given_up:
            assert given_up == frozenset()
    crashed_run(store, "four", [7, 9], "Fatal Python error: Aborted")
    with shared_lock_and_cleaning(store) as given_up:
        assert given_up == frozenset({7})
    assert json.loads(store.read("_progress/crashes.json")) == {"7": 2, "9": 1}
