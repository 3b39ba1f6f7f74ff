"""Which outputs can be opened, without a bucket; the operations on real servers are in
tests/cluster/test_object_store.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from facecap.transforms import object_store
from facecap.transforms.object_store import (
    ObjectStore,
    StoreError,
    check_url,
    fetch_copy,
    is_remote,
    open_store,
)

OPEN_WITHOUT = """
import sys
sys.modules["s3fs"] = sys.modules["gcsfs"] = None  # as if they were not installed
from facecap.transforms.object_store import StoreError, open_store
try:
    open_store(sys.argv[1])
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("output", "remote"),
    [
        ("faces", False),
        ("/data/faces", False),
        ("file:///data/faces", False),
        ("./s3:/faces", False),
        ("s3://bucket/faces", True),
        ("gs://bucket/faces", True),
        ("hdfs://name/faces", True),
    ],
)
def test_what_is_a_folder_and_what_is_not(output: str, remote: bool) -> None:
    assert is_remote(output) == remote


def test_a_folder_by_its_path_and_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for output in (tmp_path / "out", f"file://{tmp_path}/out", "out"):
        store = open_store(output)
        assert not store.is_remote and store.root == tmp_path / "out"
    open_store(f"file://{tmp_path}/out").replace("a", b"1")
    assert (tmp_path / "out" / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hdfs://name/faces", "an output is a folder, or on s3://, s3a://, gs://, gcs://; other"),
        ("memory://faces/x", "no exclusive create to commit shards by"),
        ("https://host/faces", "no exclusive create"),
        ("s3://bucket", "name a prefix in the bucket, such as s3://bucket/faces"),
        ("s3://bucket/", "such as s3://bucket/faces"),
        ("gs://", "name a prefix in the bucket"),
    ],
)
def test_an_output_that_commits_cannot_rely_on_is_refused(url: str, words: str) -> None:
    for refuse in (open_store, check_url):
        with pytest.raises(StoreError) as refused:
            refuse(url)
        assert str(refused.value).startswith(f"{url}: ") and words in str(refused.value)


@pytest.mark.parametrize(
    ("url", "extra"),
    [("s3a://b/x", "s3"), ("gs://b/x", "gcs")],
)
def test_a_missing_extra_is_a_command_to_give(url: str, extra: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN_WITHOUT, url],
        capture_output=True,
        text=True,
        env={"FACECAP_CACHE": str(tmp_path)},
    )
    assert done.stdout.startswith(f"{url}: pip install 'facecap[{extra}]' ("), done.stderr
    assert done.stdout.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """s3:// in this process's memory: names and places, not S3's answers."""
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(_registry, "s3", MemoryFileSystem)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    store = open_store("s3://bucket/faces/")
    assert isinstance(store, ObjectStore)
    return store


def test_where_the_dataset_is_and_where_this_machine_works(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    assert bucket.is_remote and str(bucket) == "s3://bucket/faces"
    assert bucket.url("shards/000000.tar") == "s3://bucket/faces/shards/000000.tar"
    assert bucket.root.is_relative_to(tmp_path / "cache") and bucket.root.is_dir()
    assert bucket.here.root == bucket.root and not bucket.here.is_remote
    other = open_store("s3://bucket/other")
    assert other.root != bucket.root and open_store("s3://bucket/faces").root == bucket.root


def test_what_is_written_aside_is_sent_whole_or_not_at_all(bucket: ObjectStore) -> None:
    with bucket.written_aside("_input/a.parquet") as path:
        path.write_bytes(b"rows")
        assert not bucket.exists("_input/a.parquet")
    assert bucket.read("_input/a.parquet") == b"rows"
    with pytest.raises(RuntimeError), bucket.written_aside("_input/b.parquet") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert not bucket.exists("_input/b.parquet")
    assert not [p for p in bucket.root.rglob("*") if p.is_file()], "nothing stays here"


def test_a_path_is_its_own_copy(tmp_path: Path) -> None:
    assert fetch_copy(str(tmp_path / "list.npy")) == tmp_path / "list.npy"


def test_a_list_is_fetched_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image has its models in the cache, and nobody may write there."""
    (tmp_path / "models").write_bytes(b"no folder can be made below a file")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path / "models"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    fsspec.filesystem("memory").pipe_file("/lists/urls-0123.npy", b"digests")
    path = object_store.fetch_copy("memory://lists/urls-0123.npy")
    assert path.read_bytes() == b"digests"
    assert path.is_relative_to(tmp_path / "temporary")
    assert (path.parent.stat().st_mode & 0o77) == 0, "the user's own"
