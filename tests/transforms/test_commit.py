"""Committing: one winner per shard, and any interruption can be finished by anybody."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.shard import SHARD_FILES, commit_file, shard_file
from facecap.transforms.commit import (
    attempt_file,
    clear,
    commit,
    finish,
    new_attempt,
    read_generation,
    read_record,
    record_names,
)
from facecap.transforms.store import Store


def write_attempt(store: Store, attempt: str, text: str, generation: int = 1) -> CommitRecord:
    files = {}
    for kind in SHARD_FILES:
        name = attempt_file(attempt, kind)
        with store.write(name) as file:
            file.write(f"{kind} {text}".encode())
        files[kind] = store.entry(name, shard_file(kind, 3))
    return CommitRecord(
        shard=3,
        generation=generation,
        attempt=attempt,
        fingerprint="f",
        files=files,
        counts=Counts(),
    )


def race(store: Store, records: list[CommitRecord]) -> list[CommitRecord]:
    """What each of them got who committed at one moment."""
    start = threading.Barrier(len(records))
    winners: list[CommitRecord] = []

    def one(record: CommitRecord) -> None:
        start.wait()
        winners.append(commit(store, record))

    threads = [threading.Thread(target=one, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


def contents(store: Store) -> dict[str, str]:
    return {kind: store.read(shard_file(kind, 3)).decode() for kind in SHARD_FILES}


def test_commit_moves_the_files_and_leaves_no_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    assert commit(store, record) == record
    assert read_record(store, 3) == record
    assert contents(store) == {kind: f"{kind} one" for kind in SHARD_FILES}
    assert store.list("_attempts") == []


def test_loser_deletes_its_files_and_gets_the_winners_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = write_attempt(store, "000003-a", "one")
    second = write_attempt(store, "000003-b", "two")
    commit(store, first)
    assert commit(store, second) == first
    assert contents(store)["tar"] == "tar one"
    assert store.list("_attempts") == []


def test_many_racing_commits_never_mix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = [write_attempt(store, f"000003-{n}", f"attempt {n}") for n in range(8)]
    winners = race(store, records)
    assert len(winners) == len(records)
    assert {w.attempt for w in winners} == {winners[0].attempt}
    number = winners[0].attempt.partition("-")[2]
    assert set(contents(store).values()) == {f"{kind} attempt {number}" for kind in SHARD_FILES}
    assert store.list("_attempts") == []


@pytest.mark.parametrize("moved", range(5))
def test_a_commit_killed_between_two_moves_is_finished(tmp_path: Path, moved: int) -> None:
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    store.create(commit_file(3), record.to_json())
    for kind in list(SHARD_FILES)[:moved]:
        store.move(attempt_file("000003-a", kind), shard_file(kind, 3))
    finish(store, record)
    assert contents(store) == {kind: f"{kind} one" for kind in SHARD_FILES}
    assert store.list("_attempts") == []


def test_a_lost_file_is_an_error_not_silence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    store.create(commit_file(3), record.to_json())
    store.path(attempt_file("000003-a", "ledger")).unlink()
    with pytest.raises(FileNotFoundError, match=r"ledger/000003\.parquet"):
        finish(store, record)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"shard": "x"}'])
def test_a_damaged_record_names_its_file(tmp_path: Path, data: bytes) -> None:
    store = Store(tmp_path)
    store.create(commit_file(3), data)
    with pytest.raises(ValueError, match=r"commits/000003\.json"):
        read_record(store, 3)


def test_a_folder_in_place_of_a_record_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(commit_file(3)).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"commits/000003\.json: not readable \(Is a directory\)"):
        read_record(store, 3)


def test_an_edited_record_moves_nothing_out_of_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    record = write_attempt(store, "000003-a", "one")
    outside = record.files["tar"].model_copy(update={"path": "../outside.tar"})
    edited = record.model_copy(update={"files": {**record.files, "tar": outside}})
    finish(store, edited)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert contents(store) == {kind: f"{kind} one" for kind in SHARD_FILES}


def test_a_record_under_another_number_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    store.create(commit_file(4), record.to_json())
    with pytest.raises(ValueError, match="record of shard 3"):
        read_record(store, 4)


def test_an_attempt_that_is_cleared_away_cannot_be_committed(tmp_path: Path) -> None:
    """A worker on another machine, whose lock nobody sees, is between two of its files."""
    store = Store(tmp_path)
    write_attempt(store, "000003-a", "one")
    clear(store, "000003-a")
    assert store.list("_attempts") == []
    with store.write(attempt_file("000003-a", "rejects")) as file:
        file.write(b"the last of its files")
    record = CommitRecord(shard=3, attempt="000003-a", fingerprint="f", files={}, counts=Counts())
    with pytest.raises(FileNotFoundError, match="cleared away by another run"):
        commit(store, record)
    assert read_record(store, 3) is None
    other = write_attempt(store, "000003-b", "two")
    assert commit(store, other) == other


@pytest.mark.parametrize("committed", [False, True])
def test_clearing_and_committing_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The clearing comes just before, or just after, the record is linked."""
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    link = os.link

    def linked(*names: Path) -> None:
        if committed:
            link(*names)
        clear(store, "000003-a")
        if not committed:
            link(*names)

    monkeypatch.setattr(os, "link", linked)
    if committed:
        assert commit(store, record) == record
        assert contents(store)["tar"] == "tar one"
    else:
        with pytest.raises(FileNotFoundError):
            commit(store, record)
        assert read_record(store, 3) is None
    assert store.list("_attempts") == []


def test_what_a_clearing_left_half_done_is_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lost, won = write_attempt(store, "000004-a", "x"), write_attempt(store, "000003-a", "one")
    assert lost.attempt == "000004-a"
    store.create(commit_file(3), won.to_json())
    for attempt in ("000003-a", "000004-a"):
        store.move(f"_attempts/{attempt}", f"_attempts/.{attempt}")
        clear(store, f".{attempt}")
    assert store.list("_attempts") == ["000003-a"], "it is committed: its files are to be moved"
    finish(store, won)
    assert contents(store)["tar"] == "tar one"


def test_the_own_record_whose_answer_was_lost_is_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server repeats LINK and is told that the name exists."""
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    link = os.link

    def linked(*names: Path) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", linked)
    assert commit(store, record) == record
    assert contents(store)["tar"] == "tar one"


# Generations: a shard is written anew


def test_the_next_generation_takes_the_place_of_the_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, write_attempt(store, "000003-a", "one"))
    for generation, text in ((2, "two"), (3, "three")):
        record = write_attempt(store, new_attempt(3, generation), text, generation)
        assert commit(store, record) == record == read_record(store, 3)
        assert set(contents(store).values()) == {f"{kind} {text}" for kind in SHARD_FILES}
    assert store.list("commits") == ["000003.2.json", "000003.3.json", "000003.json"]
    assert record_names(record) == "commits/000003.json to commits/000003.3.json"
    assert store.list("_attempts") == []


def test_of_many_that_follow_one_generation_one_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, write_attempt(store, "000003-a", "one"))
    records = [write_attempt(store, f"000003-2g{n}", f"attempt {n}", 2) for n in range(8)]
    winners = race(store, records)
    assert {w.attempt for w in winners} == {winners[0].attempt} and len(winners) == 8
    number = winners[0].attempt.partition("g")[2]
    assert set(contents(store).values()) == {f"{kind} attempt {number}" for kind in SHARD_FILES}
    assert store.list("_attempts") == []


def test_a_builds_late_attempt_does_not_undo_a_generation(tmp_path: Path) -> None:
    store = Store(tmp_path)
    zombie = write_attempt(store, "000003-z", "zombie")
    first = write_attempt(store, "000003-a", "one")
    commit(store, first)
    second = write_attempt(store, "000003-2ga", "two", 2)
    commit(store, second)
    assert commit(store, zombie) == second
    finish(store, first)  # somebody who read the record before
    assert contents(store)["tar"] == "tar two"


@pytest.mark.parametrize("moved", range(5))
def test_a_generation_killed_between_two_moves_is_finished(tmp_path: Path, moved: int) -> None:
    store = Store(tmp_path)
    commit(store, write_attempt(store, "000003-a", "one"))
    record = write_attempt(store, "000003-2ga", "two", 2)
    store.create(commit_file(3, 2), record.to_json())
    for kind in list(SHARD_FILES)[:moved]:
        store.move(attempt_file(record.attempt, kind), shard_file(kind, 3))
    clear(store, record.attempt)
    found = read_record(store, 3)
    assert found == record
    finish(store, found)
    assert set(contents(store).values()) == {f"{kind} two" for kind in SHARD_FILES}


def test_an_attempt_at_the_next_generation_is_dead_only_when_that_is_won(tmp_path: Path) -> None:
    """On an object store nobody knows whether a machine still works at it."""

    class Remote(Store):
        is_remote = True

    store = Remote(tmp_path)
    commit(store, write_attempt(store, "000003-a", "one"))
    working = write_attempt(store, "000003-2gb", "two", 2)
    lost = write_attempt(store, "000003-c", "lost")
    for attempt in (working.attempt, lost.attempt):
        clear(store, attempt)
    assert store.list("_attempts") == ["000003-2gb"]
    other = write_attempt(store, "000003-2gd", "other", 2)
    assert commit(store, other) == other
    clear(store, working.attempt)
    assert store.list("_attempts") == []


def test_a_record_of_another_generation_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = write_attempt(store, "000003-a", "one")
    store.create(commit_file(3), record.to_json())
    store.create(commit_file(3, 2), record.to_json())
    with pytest.raises(ValueError, match=r"commits/000003\.2\.json: is the record of generation 1"):
        read_record(store, 3)
    assert read_generation(store, 3, 1) == record
