"""The store: whole files or none, exclusive creation, nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path

import fsspec
import pytest

from facecap.transforms import store as store_module
from facecap.transforms.store import DiskFailed, Store


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


def test_the_spool_gives_back_what_it_was_given_from_memory_and_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SPOOL_BYTES", 3000)
    store = Store(tmp_path)
    spool = store.spool()
    pieces = [b"a" * 2000, b"b" * 2000, b"", b"c" * 1000, b"d" * 500, b"e" * 4000]
    numbers = [spool.put(piece) for piece in pieces]
    assert store.list("_attempts") == [], "nothing to see"
    order = [5, 0, 3, 1, 4, 2]
    assert [spool.get(numbers[i]) for i in order] == [pieces[i] for i in order]
    late = spool.put(b"f" * 700)  # written behind the last, wherever was read
    assert [spool.get(n) for n in numbers] == pieces and spool.get(late) == b"f" * 700
    spool.close()


def test_what_is_written_aside_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.written_aside("_input/a.parquet") as path:
        path.write_bytes(b"rows")
        assert not store.exists("_input/a.parquet")
    assert store.read("_input/a.parquet") == b"rows"
    with pytest.raises(RuntimeError), store.written_aside("_input/a.parquet") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert store.read("_input/a.parquet") == b"rows", "what was there stays"
    with pytest.raises(FileNotFoundError), store.written_aside("_input/b.parquet"):
        pass  # nothing was written
    assert store.list("_input") == ["a.parquet"]


def test_a_full_disk_while_writing_aside_is_said_in_words(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(DiskFailed, match="make room there"), store.written_aside("a") as path:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no room")
    assert store.list(".") == []


def test_where_a_folder_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("shards/000000.tar", b"tar")
    assert str(store) == str(tmp_path) and store.here.root == tmp_path and not store.is_remote
    with fsspec.open(store.url("shards/000000.tar"), "rb") as file:
        assert file.read() == b"tar"
    with store.open("shards/000000.tar") as file:
        assert file.read() == b"tar"
    with pytest.raises(FileNotFoundError):
        store.open("shards/000001.tar")


def test_what_is_gone_stays_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remove_tree("nothing")
    assert store.list("nothing") == []
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
