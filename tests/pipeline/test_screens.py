"""The lists of section `screen`: what each setting does, bad lists, what enters the fingerprint."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from facecap.pipeline.errors import UsageError
from facecap.pipeline.screens import check_hash_column, read_lists
from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import Fetched, Sample
from facecap.transforms import block_list
from facecap.transforms.railway import Dropped
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.screen import (
    ScreenConfig,
    ScreenOptions,
    screen_body,
    screen_row,
    unavailable_pictures,
)
from facecap.transforms.store import Store

URL, OTHER_URL = "http://img.bad.example/a.jpg", "http://h.example/b.jpg"
BODY, OTHER_BODY = b"a listed image", b"another image"
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()

LISTS = {
    "block_urls": ("https://img.bad.example/a.jpg", Reason.BLOCKED_URL),
    "block_domains": ("bad.example", Reason.BLOCKED_DOMAIN),
    "block_hashes": (MD5, Reason.BLOCKED_HASH),
    "unavailable_hashes": (MD5, Reason.UNAVAILABLE_PICTURE),
}
"""Each setting that names a list: an entry of it, and as what it drops URL or BODY."""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def options(**settings: Any) -> ScreenOptions:
    return ScreenOptions(**settings)


def screen(url: str, body: bytes, config: ScreenConfig) -> Reason | None:
    """What becomes of a row, as in a build: by its URL before the fetch, by its body after it."""
    sample = Sample(0, url)
    try:
        screen_row(sample, config)
        fetched = Fetched(200, body, hashlib.sha256(body).hexdigest())
        screen_body(replace(sample, fetched=fetched), config)
    except Dropped as dropped:
        return dropped.drop.reason
    return None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def staged(store: Store) -> list[Path]:
    return sorted(p for p in store.root.rglob("*") if p.is_file())


# Settings


def test_every_setting_is_tested_here() -> None:
    assert set(ScreenOptions.model_fields) == {*LISTS, "unavailable"}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_does_what_its_setting_says_and_nothing_else(
    name: str, tmp_path: Path, store: Store
) -> None:
    entry, reason = LISTS[name]
    given = options(**{name: write(tmp_path / "list.txt", f"# mine\n{entry}\n")})
    config = pickle.loads(pickle.dumps(read_lists(given).stage(store, None)))
    assert screen(URL, BODY, config) is reason
    assert screen(OTHER_URL, OTHER_BODY, config) is None
    assert len(staged(store)) == 1


def test_all_lists_together(tmp_path: Path, store: Store) -> None:
    paths = {n: write(tmp_path / n, f"{entry}\n") for n, (entry, _) in LISTS.items()}
    config = read_lists(options(**paths)).stage(store, "sha")
    assert screen(URL, OTHER_BODY, config) is Reason.BLOCKED_DOMAIN
    assert screen(OTHER_URL, BODY, config) is Reason.BLOCKED_HASH
    assert screen(OTHER_URL, OTHER_BODY, config) is None
    assert config.hash_column == "sha" and len(staged(store)) == 4


def test_without_settings_nothing_is_staged(store: Store) -> None:
    config = read_lists(ScreenOptions()).stage(store, None)
    assert config == ScreenConfig() and config.unavailable
    assert not store.root.exists()


def test_known_unavailable_pictures_can_be_let_through(store: Store) -> None:
    assert not read_lists(ScreenOptions(unavailable=False)).stage(store, None).unavailable


def test_all_algorithms_of_a_list_are_looked_at(tmp_path: Path, store: Store) -> None:
    text = "\n".join([hashlib.sha1(b"x").hexdigest(), SHA256.upper(), "f" * 128])
    lists = read_lists(ScreenOptions(block_hashes=write(tmp_path / "list.txt", text)))
    config = lists.stage(store, None)
    assert config.hashes and config.hashes.algorithms == ("sha1", "sha256", "sha512")
    assert screen(OTHER_URL, BODY, config) is Reason.BLOCKED_HASH
    assert screen(OTHER_URL, b"x", config) is Reason.BLOCKED_HASH
    assert screen(OTHER_URL, OTHER_BODY, config) is None


# Bad lists

BAD = {
    "block_urls": ("h.example/a.jpg", "is no http or https URL"),
    "block_domains": ("http://h.example/", "is no host name or IP address"),
    "block_hashes": ("abc", "is no md5, sha1, sha256 or sha512 in hexadecimal"),
    "unavailable_hashes": ("g" * 32, "is no md5, sha1, sha256 or sha512 in hexadecimal"),
}


def refusal(name: str, path: Path | str) -> str:
    with pytest.raises(UsageError) as error:
        read_lists(options(**{name: str(path)}))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", LISTS)
def test_a_bad_line_is_named_with_setting_file_line_and_remedy(name: str, tmp_path: Path) -> None:
    line, why = BAD[name]
    path = write(tmp_path / "list.txt", f"{LISTS[name][0]}\n\n{line}\n")
    expected = f"screen.{name}: {path}, line 3: {line!r} {why}; mend or remove the line"
    assert refusal(name, path) == expected


@pytest.mark.parametrize("name", LISTS)
def test_a_missing_list_is_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nosuch.txt"
    expected = f"screen.{name}: {path}: no such file; mend the path, or leave the setting out"
    assert refusal(name, path) == expected


def test_lists_that_cannot_be_read_are_one_line_that_names_them(tmp_path: Path) -> None:
    whole = gzip.compress(b"bad.example\n" * 1000)
    files = {
        "no.gz": b"bad.example\n",
        "cut.gz": whole[:-20],
        "latin.txt": b"a.example\nb\xfccher.example\n",
        "long.txt": b"a" * (70 << 10),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    for name in (*files, "folder"):
        found = refusal("block_domains", tmp_path / name)
        assert found.startswith(f"screen.block_domains: {tmp_path / name}"), found
        assert len(found) < 500
    assert refusal("block_domains", "nosuch://x/y").startswith("screen.block_domains: nosuch://x/y")
    latin = refusal("block_domains", tmp_path / "latin.txt")
    assert latin.endswith("line 2: is not UTF-8; save it as UTF-8")


def test_the_second_list_is_checked_too(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", "bad.example\n")
    with pytest.raises(UsageError, match=r"^screen\.unavailable_hashes: .*line 1: 'bad\.example'"):
        read_lists(ScreenOptions(block_domains=good, unavailable_hashes=good))


# The fingerprint


def test_what_is_in_the_lists_enters_the_fingerprint_and_where_they_lie_does_not(
    tmp_path: Path,
) -> None:
    text = "# mine\nbad.example\n"
    plain = read_lists(ScreenOptions(block_domains=write(tmp_path / "a.txt", text))).hashes
    assert plain["screen.block_domains"] == hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in (write(tmp_path / "c", text), str(tmp_path / "b.txt.gz")):
        assert read_lists(ScreenOptions(block_domains=name)).hashes == plain
    other = write(tmp_path / "a.txt", text + "worse.example\n")
    assert read_lists(ScreenOptions(block_domains=other)).hashes != plain


def test_each_setting_has_its_own_entry(tmp_path: Path) -> None:
    paths = {n: write(tmp_path / n, f"{entry}\n") for n, (entry, _) in LISTS.items()}
    found = read_lists(options(**paths)).hashes
    assert set(found) == {*(f"screen.{name}" for name in LISTS), "screen.unavailable"}
    # One list under two settings is two things.
    assert found["screen.block_hashes"] == found["screen.unavailable_hashes"]


def test_the_packages_own_list_enters_the_fingerprint_while_it_is_used() -> None:
    known = unavailable_pictures()
    found = read_lists(ScreenOptions()).hashes
    assert found == {"screen.unavailable": f"{known.sha256} (version {known.version})"}
    assert read_lists(ScreenOptions(unavailable=False)).hashes == {}


# Staging


def test_staged_lists_are_found_again_and_left_alone(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "list.txt"
    lists = read_lists(ScreenOptions(block_domains=write(path, "bad.example\nworse.example\n")))
    first = lists.stage(store, None)
    (file,) = staged(store)
    assert first.domains == str(file) and file.name.startswith("block_domains-")
    assert np.array_equal(block_list.load(str(file)), lists.lists["block_domains"].keys)
    before = file.stat()
    assert lists.stage(store, None) == first
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    write(path, "other.example\n")
    second = read_lists(ScreenOptions(block_domains=str(path))).stage(store, None)
    assert second.domains != first.domains and len(staged(store)) == 2
    assert screen(URL, BODY, first) is Reason.BLOCKED_DOMAIN
    assert screen(URL, BODY, second) is None


# input.hash_column


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.null(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_column_of_texts_can_hold_hashes(kind: pa.DataType) -> None:
    extra = pa.schema([("hash", kind), ("n", pa.int64())])
    check_hash_column(extra, InputOptions(hash_column="hash"))
    check_hash_column(extra, InputOptions())


def test_a_hash_column_that_cannot_be_is_named() -> None:
    extra = pa.schema([("hash", pa.int64()), ("raw", pa.binary()), ("url_2", pa.string())])
    for fields, name, message in (
        (extra, "md5", r"no further column 'md5'; it has: hash, raw, url_2$"),
        (pa.schema([]), "md5", r"no further column 'md5'; it has: none$"),
        (extra, "hash", r"column 'hash' holds int64, not hashes in hex$"),
        (extra, "raw", r"column 'raw' holds binary, not hashes in hex$"),
    ):
        with pytest.raises(UsageError, match=rf"^input\.hash_column: .*{message}"):
            check_hash_column(fields, InputOptions(hash_column=name))
