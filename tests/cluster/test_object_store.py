"""Output on S3 and Google Cloud Storage: exclusive commits, whatever races, dies or is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from facecap.schemas.commit import CommitRecord
from facecap.schemas.shard import SHARD_FILES, commit_file
from facecap.transforms import object_store
from facecap.transforms.commit import commit, finish, read_record
from facecap.transforms.object_store import ObjectStore, StoreError, fetch_copy, open_store
from facecap.transforms.store import DiskFailed, Store
from tests.cluster.services import Bucket
from tests.transforms.test_commit import contents, write_attempt

pytestmark = pytest.mark.cluster


@pytest.fixture
def store(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path))
    return open_store(f"{bucket.url}/{uuid.uuid4().hex}/faces")


def test_the_operations_of_a_store(store: Store) -> None:
    assert store.list("commits") == [] and not store.exists("commits/a")
    with pytest.raises(FileNotFoundError):
        store.read("commits/a")
    assert store.create("commits/a", b"one")
    assert not store.create("commits/a", b"two")
    assert store.read("commits/a") == b"one"
    store.replace("b", b"1")
    store.replace("b", b"22")
    assert store.list(".") == ["b", "commits"]
    assert store.move("b", "deep/er/c") and not store.move("b", "deep/er/c")
    assert store.list("deep") == ["er"] and store.list("deep/er") == ["c"]
    entry = store.entry("deep/er/c", "final")
    assert (entry.path, entry.bytes) == ("final", 2)
    with store.open("deep/er/c") as file:
        assert file.read() == b"22"
    store.remove_tree("deep")
    store.remove_tree("deep")
    assert store.list(".") == ["commits"]


def test_a_folder_that_begins_with_the_name_of_another_stays(store: Store) -> None:
    for name in ("_attempts/000001-a/tar", "_attempts/000001-ab/tar"):
        store.replace(name, b"x")
    store.remove_tree("_attempts/000001-a")
    assert store.list("_attempts") == ["000001-ab"]


def test_a_file_of_several_parts_is_there_whole_or_not_at_all(store: Store) -> None:
    data = bytes(range(256)) * 50_000  # 12.8 MB
    with store.write("_attempts/x/tar") as file:
        file.write(data)
        assert not store.exists("_attempts/x/tar")
    assert store.read("_attempts/x/tar") == data
    assert file.entry("t").bytes == len(data)
    with pytest.raises(RuntimeError), store.write("_attempts/x/half") as file:
        file.write(b"half")
        raise RuntimeError
    assert store.list("_attempts/x") == ["tar"]
    assert not list(store.path("_attempts").iterdir()), "nothing stays on this machine"


def test_many_racing_commits_never_mix(store: Store) -> None:
    records = [write_attempt(store, f"000003-{n}", f"attempt {n}") for n in range(8)]
    start = threading.Barrier(len(records))
    winners: list[CommitRecord] = []

    def race(record: CommitRecord) -> None:
        start.wait()
        winners.append(commit(store, record))

    threads = [threading.Thread(target=race, args=(r,)) for r in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == len(records)
    assert len({w.attempt for w in winners}) == 1
    number = winners[0].attempt.partition("-")[2]
    assert set(contents(store).values()) == {f"{kind} attempt {number}" for kind in SHARD_FILES}
    assert store.list("_attempts") == []


WRITER = """
import sys
from facecap.transforms.commit import commit
from facecap.transforms.object_store import open_store
from tests.transforms.test_commit import write_attempt
store = open_store(sys.argv[1])
record = write_attempt(store, f"000003-{sys.argv[2]}", f"attempt {sys.argv[2]}")
print("ready", flush=True)
sys.stdin.readline()
print(commit(store, record).attempt)
"""


def test_two_processes_racing_on_one_shard(store: Store) -> None:
    """Processes share no connection and no lock: only the server decides."""
    for turn in range(3):
        store.remove_tree("commits")
        names = [f"{turn}{letter}" for letter in "ab"]
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(store), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        said = []
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            output, _ = writer.communicate(timeout=60)
            assert writer.returncode == 0
            said.append(output.strip())
        assert len(set(said)) == 1, said
        winner = said[0].partition("-")[2]
        assert winner in names
        assert set(contents(store).values()) == {f"{kind} attempt {winner}" for kind in SHARD_FILES}
        assert store.list("_attempts") == []


class Killed(BaseException):
    """The process is gone: nothing in it runs on, no clean-up either."""


class DyingStore(ObjectStore):
    """Dies at a request: before the server sees it, or when it has been carried out."""

    def dies(self, at: int, *, after: bool) -> None:
        self._left, self._after = at, after
        inner, outer = self._fs, self

        class Requests:
            def __getattr__(self, name: str) -> object:
                operation = getattr(inner, name)
                if name not in ("pipe_file", "cp_file", "rm_file", "rm", "put_file", "find"):
                    return operation

                def request(*args: object, **options: object) -> object:
                    outer._left -= 1
                    if outer._left < 0:
                        if outer._after:
                            operation(*args, **options)
                        raise Killed
                    return operation(*args, **options)

                return request

        self._fs = Requests()


REQUESTS = 4 + 1 + 4 * 2 + 1  # four files, the record, a copy and a deletion each, a look


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(REQUESTS))
def test_a_writer_killed_at_any_request_leaves_what_another_finishes(
    store: Store, at: int, after: bool
) -> None:
    dying = DyingStore(str(store))
    dying.dies(at, after=after)
    with pytest.raises(Killed):
        commit(dying, write_attempt(dying, "000003-a", "attempt a"))
        raise AssertionError(f"there is no request {at}")
    record = read_record(store, 3)
    committed = at > 4 or (at == 4 and after)
    assert (record is not None) == committed
    if record is not None:
        finish(store, record)  # as the next run does when it finds the record
        assert set(contents(store).values()) == {f"{kind} attempt a" for kind in SHARD_FILES}
    second = write_attempt(store, "000003-b", "attempt b")
    winner = commit(store, second)
    assert winner.attempt == ("000003-a" if committed else "000003-b")
    letter = winner.attempt[-1]
    assert set(contents(store).values()) == {f"{kind} attempt {letter}" for kind in SHARD_FILES}


def test_the_own_create_whose_answer_was_lost_is_a_success(store: Store) -> None:
    """The client repeats the request and is told that the object exists."""
    assert isinstance(store, ObjectStore)
    pipe_file, calls = store._fs.pipe_file, []

    class Lossy:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def pipe_file(self, *args: object, **options: object) -> object:
            calls.append(args)
            pipe_file(*args, **options)
            return pipe_file(*args, **options)  # the second is refused by the server

    inner, store._fs = store._fs, Lossy()
    record = write_attempt(store, "000003-a", "one")
    assert commit(store, record) == record
    assert contents(store)["tar"] == "tar one"


def test_a_conflict_of_two_creators_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(store, ObjectStore)
    monkeypatch.setattr(object_store, "_CONFLICT_PAUSES_S", (0.01, 0.01))
    inner, refusals = store._fs, [True, True]

    class Busy:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def pipe_file(self, *args: object, **options: object) -> object:
            if refusals:
                refusals.pop()
                raise OSError("An error occurred (ConditionalRequestConflict) when calling ...")
            return inner.pipe_file(*args, **options)

    store._fs = Busy()
    assert store.create(commit_file(3), b"x") and not refusals


def test_a_bucket_that_is_not_there_ends_in_words(bucket: Bucket, tmp_path: Path) -> None:
    scheme = bucket.url.partition("://")[0]
    missing = open_store(f"{scheme}://no-such-bucket-here/faces")
    for write in (missing.create, missing.replace):
        with pytest.raises(
            DiskFailed, match=rf"^{scheme}://no-such-bucket-here/faces: .*; mend that"
        ):
            write("build.json", b"x")


def test_a_list_is_fetched_once_for_all_processes(store: Store, tmp_path: Path) -> None:
    store.replace("_input/urls-0123.npy", b"digests")
    path = fetch_copy(store.url("_input/urls-0123.npy"))
    assert path.read_bytes() == b"digests" and path.is_relative_to(tmp_path)
    stamp = path.stat().st_mtime_ns
    assert fetch_copy(store.url("_input/urls-0123.npy")).stat().st_mtime_ns == stamp


def _cases() -> list[tuple[str, str]]:
    return [
        ("hdfs://name/faces", "no exclusive create"),
        ("memory://faces", "no exclusive create"),
        ("s3://bucket", "name a prefix in the bucket, such as s3://bucket/faces"),
        ("gs://bucket/", "name a prefix"),
    ]


@pytest.mark.parametrize(("url", "words"), _cases())
def test_an_output_that_commits_cannot_rely_on_is_refused(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        open_store(url)
