"""The store: whole files or none, exclusive creation, nothing left behind."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from facecap.transforms.store import Store


def test_create_is_exclusive_under_a_race(tmp_path: Path) -> None:
    store = Store(tmp_path)
    start = threading.Barrier(16)
    created: list[int] = []

    def race(number: int) -> None:
        start.wait()
        if store.create("commits/000000.json", f"{number}".encode()):
            created.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert store.read("commits/000000.json") == f"{created[0]}".encode()
    assert store.list("commits") == ["000000.json"]


def test_replace_overwrites_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("a.json", b"one")
    store.replace("a.json", b"two")
    assert store.read("a.json") == b"two"
    assert store.list(".") == ["a.json"]


def test_write_never_overwrites(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.write("x/y") as file:
        file.write(b"1")
    with pytest.raises(FileExistsError), store.write("x/y"):
        pass
    assert store.read("x/y") == b"1"


def test_move_says_when_another_was_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("a", b"1")
    assert store.move("a", "deep/b")
    assert not store.move("a", "deep/b")
    assert store.read("deep/b") == b"1"


def test_entry_is_size_and_sha256(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("a", b"hello")
    entry = store.entry("a", "shards/a")
    assert (entry.path, entry.bytes) == ("shards/a", 5)
    assert entry.sha256 == hashlib.sha256(b"hello").hexdigest()


def test_spool_leaves_nothing_to_see(tmp_path: Path) -> None:
    store = Store(tmp_path)
    spool = store.spool()
    spool.write(b"x" * 1000)
    assert store.list("_attempts") == []
    spool.seek(10)
    assert spool.read(5) == b"x" * 5 and spool.tell() == 15
    spool.close()


def test_what_is_gone_stays_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remove_tree("nothing")
    assert store.list("nothing") == []
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
