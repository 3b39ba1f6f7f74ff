"""Block lists: canonical entries, clear errors, small and quick lookups."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms import block_list
from facecap.transforms.block_list import (
    BlockListError,
    blocked_domain,
    contains,
    domain_key,
    read_list,
    url_key,
)
from facecap.transforms.web.addresses import parse_url


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        ("http://h.example/a.jpg", "https://h.example/a.jpg"),
        ("http://H.Example./a.jpg#top", "http://user:pw@h.example:80/a.jpg"),
        ("https://bücher.example/ä.jpg", "http://xn--bcher-kva.example/%C3%A4.jpg"),
        ("http://h.example", "http://h.example/"),
        ("https://h.example?q=1", "http://h.example/?q=1"),
        ("http://[::1]:8080/a", "http://[0:0::1]:8080/a"),
        ("http://0x7f.1/a", "http://127.0.0.1/a"),
        ("http://h.example/x/../a?b=1", "http://h.example/a?b=1"),
    ],
)
def test_spellings_of_one_url_are_one_entry(listed: str, asked: str) -> None:
    assert url_key(listed) == block_list.key_of(parse_url(asked))
    assert url_key(listed) != url_key("http://h.example/b.jpg")


@settings(max_examples=30, deadline=None)
@given(st.from_regex(block_list._PLAIN_URL, fullmatch=True))
def test_plain_urls_are_canonical_as_they_are(url: str) -> None:
    if len(url) <= 1024 and len(url.split("/")[2]) <= 253:
        assert url_key(url) == block_list.key_of(parse_url(url))


@settings(max_examples=30, deadline=None)
@given(st.from_regex(block_list._PLAIN_DOMAIN, fullmatch=True))
def test_plain_domains_are_canonical_as_they_are(domain: str) -> None:
    if len(domain) <= 253:
        assert domain_key(domain) == domain == parse_url(f"http://{domain}").raw_host


def write(path: Path, text: str) -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return str(path)


@pytest.mark.parametrize("name", ["list.txt", "list.txt.gz"])
def test_a_list_has_comments_blank_lines_and_any_order(tmp_path: Path, name: str) -> None:
    text = "\ufeff# bad hosts\r\nExample.COM.\r\n\n*.cdn.example  # all of it\n10.1.2.3\n[::1]\n"
    text += "bücher.example\nexample.com\n"
    found = read_list(write(tmp_path / name, text), "domains")
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert len(found.keys) == 5 and found.keys.dtype == np.uint64
    for host, domain in {
        "example.com": "example.com",
        "a.b.example.com": "example.com",
        "cdn.example": "cdn.example",
        "10.1.2.3": "10.1.2.3",
        "::1": "::1",
        "www.xn--bcher-kva.example": "xn--bcher-kva.example",
        "notexample.com": None,
        "com": None,
        "example": None,
    }.items():
        assert blocked_domain(found.keys, host) == domain, host


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("urls", "h.example/a.jpg", "is no http or https URL"),
        ("urls", "ftp://h.example/a", "is no http or https URL"),
        ("domains", "http://h.example/", "is no host name"),
        ("domains", "h.example:80", "has a port"),
        ("domains", "a b", "is no host name"),
        ("domains", "300.1.2.3", "is no host name or IP address; mend or remove the line"),
        ("domains", "a..b", "is no host name or IP address"),
        ("domains", "evil.*", r"has a \* that"),
        ("domains", "*", r"has a \* that"),
        ("domains", "*evil.com", r"has a \* that"),
        ("hashes", "abc", "is no md5, sha1"),
        ("hashes", "x" * 64, "is no md5, sha1"),
        ("hashes", "a" * 32 + "  name.jpg", "is no md5, sha1"),
        ("urls", "http://h.example/" + "a" * (70 << 10), "too long"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, kind: str, line: str, message: str) -> None:
    path = write(tmp_path / "list.txt", f"# one\n\n{line}\n")
    with pytest.raises(BlockListError, match=message) as error:
        read_list(path, kind)
    assert f"{path}, line 3: " in str(error.value) and len(str(error.value)) < 400


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    whole = gzip.compress(b"example.com\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[:-20])
    (tmp_path / "latin.txt").write_bytes(b"b\xfccher.example\n")
    for name, message in {
        "bad.gz": "bad.gz",
        "cut.gz": "cut.gz",
        "latin.txt": "line 1: is not UTF-8; save it as UTF-8",
        "gone.txt": "no such file; mend the path, or leave the setting out$",
    }.items():
        with pytest.raises(BlockListError, match=message):
            read_list(str(tmp_path / name), "domains")


def test_a_large_list_takes_eight_bytes_an_entry_and_is_mapped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(16).hex() for _ in range(20_000)]
    path = write(tmp_path / "hashes.txt", "\n".join(h.upper() for h in hashes))
    found = read_list(path, "hashes")
    assert found.algorithms == ("md5",) and found.keys.nbytes == 8 * len(hashes)
    block_list.save(found.keys, tmp_path / "keys.npy")
    keys = block_list.load(str(tmp_path / "keys.npy"))
    assert isinstance(keys, np.memmap)
    assert all(contains(keys, f"md5:{h}") for h in hashes)
    assert not any(contains(keys, f"md5:{rng.bytes(16).hex()}") for _ in range(5000))
    assert not contains(keys[:0], "md5:")


def test_an_empty_list_blocks_nothing(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "list.txt", "# nothing yet\n"), "urls")
    assert len(found.keys) == 0 and not contains(found.keys, "h/a")
