"""Block lists: URLs, domains and image hashes that must not enter a dataset, one per line.

A list of millions is kept as the sorted first 64 bits of each entry's digest, 8 bytes each, in a
file that every process maps. What is not in a list of ten million is taken for one of its entries
with a probability of 5e-13.
"""

from __future__ import annotations

import functools
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
from yarl import URL

from facecap.transforms.object_store import fetch_copy
from facecap.transforms.web.addresses import host_of, parse_url
from facecap.transforms.web.failure import Failed

HASHES = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
"""The algorithm that a hash in hexadecimal tells by its length."""

MAX_LINE_CHARS = 64 << 10

Keys = npt.NDArray[np.uint64]

_COMMENT = re.compile(r"(^|\s)#.*", re.DOTALL)
_HEX = re.compile(r"[0-9a-f]+\Z")
# What parse_url leaves as it is: most of a list, at a twentieth of the time.
_PLAIN_HOST = r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.[a-z][a-z-]{1,20}"
_PLAIN_DOMAIN = re.compile(rf"{_PLAIN_HOST}\Z", re.ASCII)
_PLAIN_URL = re.compile(
    rf"https?://({_PLAIN_HOST}/(?:(?!\.)[\w.~-]*/)*(?!\.)[\w.~-]*(?:\?[\w=&.~-]+)?)\Z", re.ASCII
)


_NO_ENTRY = {"urls": "is no http or https URL", "domains": "is no host name or IP address"}


class BlockListError(ValueError):
    """A list that cannot be used: names the file, the line and what is wrong."""


def url_key(text: str) -> str:
    """What a URL is known by: canonical, without scheme, credentials and fragment, because the
    same page answers on http and https. Raises Failed."""
    plain = _PLAIN_URL.match(text)
    if plain and len(text) <= 1024 and len(plain[1].split("/", 1)[0]) <= 253:
        return plain[1]
    return key_of(parse_url(text))


def key_of(url: URL) -> str:
    """`url_key` of a URL from `parse_url`."""
    return f"{url.host_port_subcomponent}{url.raw_path_qs}"


def domain_key(entry: str) -> str:
    """A host or IP address in canonical spelling (IDN as punycode, lower case); it stands for
    its subdomains, too, so `*.` before it says nothing new. Raises ValueError."""
    entry = entry.removeprefix("*.").removeprefix(".")
    if len(entry) <= 253 and _PLAIN_DOMAIN.match(entry):
        return entry
    if "*" in entry:
        raise ValueError("has a * that is no '*.' at its beginning; write the domain alone")
    if re.search(r"[/@?#\s\\]", entry):
        raise ValueError("is no host name or IP address")
    bare_ipv6 = entry.count(":") > 1 and not entry.startswith("[")
    url = parse_url(f"http://[{entry}]" if bare_ipv6 else f"http://{entry}")
    if url.explicit_port is not None:
        raise ValueError("has a port")
    return host_of(url)


def hash_key(entry: str) -> str:
    """`ALGORITHM:HEX` of a hash in hexadecimal. Raises ValueError."""
    entry = entry.lower()
    if len(entry) not in HASHES or not _HEX.match(entry):
        raise ValueError("is no md5, sha1, sha256 or sha512 in hexadecimal")
    return f"{HASHES[len(entry)]}:{entry}"


KEY_OF: dict[str, Callable[[str], str]] = {
    "urls": url_key,
    "domains": domain_key,
    "hashes": hash_key,
}


def digest(key: str) -> int:
    """The first 64 bits of what stands for an entry."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class BlockList:
    """A list as it was read: the sha256 of its text, the hash algorithms in it, its digests."""

    sha256: str
    algorithms: tuple[str, ...]
    keys: Keys


def read_list(path: str, kind: str) -> BlockList:
    """Read a list (any fsspec path, also .gz): an entry per line, `#` begins a comment.

    `kind` is a key of KEY_OF. Raises BlockListError.
    """
    to_key, content = KEY_OF[kind], hashlib.sha256()
    algorithms: set[str] = set()
    blocks: list[Keys] = []
    pending = bytearray()
    try:
        for number, line in enumerate(_lines(path, content), 1):
            entry = _COMMENT.sub("", line).strip()
            if not entry:
                continue
            try:
                key = to_key(entry)
            except (ValueError, Failed) as error:
                reason = _NO_ENTRY[kind] if isinstance(error, Failed) else str(error)
                raise BlockListError(
                    f"{path}, line {number}: {entry[:80]!r} {reason}; mend or remove the line"
                ) from None
            if kind == "hashes":
                algorithms.add(key.partition(":")[0])
            pending += hashlib.blake2b(key.encode(), digest_size=8).digest()
            if len(pending) >= 8 << 20:
                blocks.append(np.frombuffer(bytes(pending), "<u8"))
                pending.clear()
    except FileNotFoundError:
        raise BlockListError(
            f"{path}: no such file; mend the path, or leave the setting out"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, ImportError) as error:
        if isinstance(error, BlockListError):
            raise
        raise BlockListError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    blocks.append(np.frombuffer(bytes(pending), "<u8"))
    return BlockList(
        content.hexdigest(), tuple(sorted(algorithms)), np.unique(np.concatenate(blocks))
    )


def _lines(path: str, content: hashlib._Hash) -> Iterator[str]:
    with fsspec.open(path, "rb", compression="infer") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARS), b""), 1):
            content.update(line)
            if len(line) == MAX_LINE_CHARS:
                raise BlockListError(f"{path}, line {number}: is too long; mend or remove the line")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise BlockListError(
                    f"{path}, line {number}: is not UTF-8; save it as UTF-8"
                ) from None


def save(keys: Keys, path: Path) -> None:
    """Write what `load` maps."""
    with path.open("xb") as file:
        np.save(file, keys)


@functools.lru_cache(maxsize=16)
def load(path: str) -> Keys:
    """The digests at a path or URL, mapped: the processes of a machine share one copy."""
    keys: Keys = np.load(fetch_copy(path), mmap_mode="r")
    return keys


def contains(keys: Keys, key: str) -> bool:
    """Whether the entry `key` is in the list, in O(log n)."""
    value = np.uint64(digest(key))
    at = int(np.searchsorted(keys, value))
    return at < len(keys) and bool(keys[at] == value)


def blocked_domain(keys: Keys, host: str) -> str | None:
    """The listed domain that a canonical `host` is or lies under, the widest; None for none."""
    labels = host.split(".") if ":" not in host else [host]
    for first in range(len(labels) - 1, -1, -1):
        domain = ".".join(labels[first:])
        if contains(keys, domain):
            return domain
    return None
