"""The members of a tar that nobody vouches for, in order, in bounded memory.

Headers are parsed by the standard library; the walk is ours, because `tarfile` and what builds on
it take a damaged header for the end of the archive and read a header's extension whole, however
long it says it is.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENSION_BYTES = 64 << 10
"""Of one pax or GNU header: paths have at most 4 KiB."""

_SKIP_BYTES = 1 << 20
_MAGIC = slice(257, 262)
_IS_EXTENDED, _MORE_EXTENDED = 482, 504
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive: `data` is None when it is larger than asked for, or stored in a way
    that only its own tar can undo (sparse)."""

    name: str
    size: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class End:
    """A mark of the end of an archive; another may follow (`cat a.tar b.tar`)."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something unreadable, of unknown length; `what` says what, in a word or two."""

    what: str


class _Broken(Exception):
    """A header, or what it announces, is unusable."""


class _CutOff(Exception):
    """The file ended inside a member."""


def members(file: IO[bytes], max_bytes: int) -> Iterator[Member | End | Damage]:
    """What is in a tar, read forwards only; at most `max_bytes` of one member are kept.

    After damage it goes on at the next header, as GNU tar does. Directories, links and devices are
    passed over. An archive that stops without its end mark ends in Damage. Raises OSError.
    """
    lost, ended = False, True
    while block := _read(file, BLOCK):
        if len(block) < BLOCK:
            ended = ended and not block.strip(b"\0")
            break
        if lost and block[_MAGIC] != b"ustar":
            continue
        if not block.strip(b"\0"):
            if not ended:
                yield End()
            ended = True
            continue
        ended = False
        try:
            member = _member(file, block, max_bytes)
        except _CutOff:
            lost = False
            break
        except (_Broken, tarfile.HeaderError):
            if not lost:
                yield Damage("bad header")
            lost = True
            continue
        lost = False
        if member is not None:
            yield member
    if not ended and not lost:
        yield Damage("truncated")


def _member(file: IO[bytes], block: bytes, max_bytes: int) -> Member | None:
    """The file whose header is `block`, after its extensions; None for what is no file."""
    name: str | None = None
    records: dict[str, str] = {}
    header = _header(block)
    while header.type in _EXTENSIONS:
        if header.size > MAX_EXTENSION_BYTES:
            raise _Broken
        data = _padded(file, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records = _pax_records(data)
        block = _read(file, BLOCK)
        if len(block) < BLOCK:
            raise _CutOff
        header = _header(block)
    size = header.size
    if "size" in records:
        if not records["size"].isdecimal() or len(records["size"]) > 18:
            raise _Broken
        size = int(records["size"])
    sparse = any(key.startswith("GNU.sparse.") for key in records)
    if header.type == tarfile.GNUTYPE_SPARSE:
        sparse = True
        more = block[_IS_EXTENDED]
        while more:
            block = _padded(file, BLOCK)
            more = block[_MORE_EXTENDED]
    elif header.type not in _PLAIN:
        # As tarfile has it: what POSIX names has no data, what it does not know may have.
        if header.type not in tarfile.SUPPORTED_TYPES:
            _skip(file, size)
        return None
    name = records.get("GNU.sparse.name") or records.get("path") or name or header.name
    if sparse or size > max_bytes:
        _skip(file, size)
        return Member(name, size, None)
    return Member(name, size, _padded(file, size))


def _header(block: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if header.size < 0:
        raise _Broken
    return header


def _pax_records(data: bytes) -> dict[str, str]:
    """The records of a pax header: `LENGTH KEY=VALUE\\n`, one after the other (POSIX.1-2001)."""
    records, start = {}, 0
    while start < len(data):
        space = data.find(b" ", start, start + 8)
        digits = data[start:space]
        if space < 0 or not digits.isdigit():
            raise _Broken
        end = start + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space + 1 or data[end - 1 : end] != b"\n" or not equals:
            raise _Broken
        name = key.decode("utf-8", "surrogateescape")
        records[name] = value.decode("utf-8", "surrogateescape")
        start = end
    return records


def _padded(file: IO[bytes], size: int) -> bytes:
    """`size` bytes, and the padding behind them passed over."""
    data = _read(file, size)
    if len(data) < size:
        raise _CutOff
    if len(_read(file, -size % BLOCK)) < -size % BLOCK:
        raise _CutOff
    return data


def _skip(file: IO[bytes], size: int) -> None:
    left = size + -size % BLOCK
    while left:
        data = file.read(min(left, _SKIP_BYTES))
        if not data:
            raise _CutOff
        left -= len(data)


def _read(file: IO[bytes], size: int) -> bytes:
    """`size` bytes, fewer at the file's end only."""
    data = file.read(size)
    if len(data) == size or not data:
        return data
    parts, left = [data], size - len(data)
    while left and (data := file.read(left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
