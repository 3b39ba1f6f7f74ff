"""Text lists as streams of UTF-8, plain or gzipped, however broken or hostile the file is."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec

BLOCK_BYTES = 8 << 20
"""Read, parsed and written at a time; also the longest record."""

MAX_EXPANSION = 100
"""Beyond it a gzip is taken for a bomb: deflate reaches 1,030, distinct URLs nothing like it."""

EXPANSION_ALLOWED_BYTES = 256 << 20

MAX_JSON_DEPTH = 32

_CHUNK_BYTES = 1 << 20


class UnreadableText(OSError):
    """The file is not what its name says; the text says what is wrong and the remedy."""


@contextmanager
def open_text(
    path: str, size: int, *, gzipped: bool, one_newline: bool = False
) -> Iterator[io.BufferedReader]:
    """The file at `path` (any fsspec URL, `size` bytes) as UTF-8 without a byte order mark.

    Bytes that are not UTF-8 become U+FFFD, so they cost no more than the cell that holds them.
    With `one_newline` every CR and CR LF becomes LF.
    Reading raises UnreadableText on a damaged or truncated gzip, on one that expands more than
    MAX_EXPANSION times (and to more than EXPANSION_ALLOWED_BYTES), and on UTF-16.
    """
    with fsspec.open(path, "rb") as raw:
        limit = max(EXPANSION_ALLOWED_BYTES, MAX_EXPANSION * size)
        source: IO[bytes] = gzip.GzipFile(fileobj=raw) if gzipped else raw  # type: ignore[assignment]
        text: Any = _Utf8(source, limit if gzipped else None, one_newline)
        with io.BufferedReader(text, _CHUNK_BYTES) as file:
            yield file


class _Utf8(io.RawIOBase):
    def __init__(self, source: IO[bytes], limit: int | None, one_newline: bool) -> None:
        self._source, self._limit = source, limit
        self._decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        if one_newline:
            self._decoder = io.IncrementalNewlineDecoder(self._decoder, translate=True)
        self._ready = memoryview(b"")
        self._read = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            self._fill()
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _fill(self) -> None:
        try:
            data = self._source.read(_CHUNK_BYTES)
        except EOFError:
            raise UnreadableText("the gzip file is truncated; fetch it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableText(f"not a sound gzip file ({error}); fetch it again") from None
        if not self._read and _is_utf16(data):
            raise UnreadableText("is UTF-16 text; save it as UTF-8")
        self._read += len(data)
        if self._limit is not None and self._read > self._limit:
            raise UnreadableText(
                f"the gzip file expands more than {MAX_EXPANSION} times, which no list of URLs "
                "does; decompress it yourself if you trust it"
            )
        self._ended = not data
        self._ready = memoryview(self._decoder.decode(data, final=self._ended).encode())


def _is_utf16(start: bytes) -> bool:
    """By its mark, or because every other byte is NUL, as of most text in ASCII."""
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return marked or start.count(0, 0, 1000) * 3 > len(start[:1000])


def whole_lines(file: io.BufferedReader) -> Iterator[bytes]:
    """The file in blocks of whole lines, each of about BLOCK_BYTES.

    Raises UnreadableText on a line of more than BLOCK_BYTES.
    """
    while block := file.read(BLOCK_BYTES):
        if not block.endswith(b"\n"):
            rest = file.readline(BLOCK_BYTES)
            if len(rest) == BLOCK_BYTES and not rest.endswith(b"\n"):
                raise UnreadableText(f"has a line of more than {BLOCK_BYTES >> 20} MiB")
            block += rest
        yield block


def json_lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Blocks as of `whole_lines` in which each line that is not blank holds an object.

    Raises UnreadableText on any other line, and on objects nested deeper than MAX_JSON_DEPTH.
    """
    first = 1
    for block in whole_lines(file):
        for number, line in enumerate(block.split(b"\n"), first):
            line = line.strip()
            if line and not (line.startswith(b"{") and line.endswith(b"}")):
                raise UnreadableText(
                    f"line {number} holds no whole object; wanted: a JSON array of objects, or "
                    "JSON Lines, one object on each line"
                )
            _check_depth(line, f"line {number}")
        first += block.count(b"\n")
        yield block


def _check_depth(text: bytes, where: str) -> None:
    """Arrow's parser is recursive and dies on what is nested deeply enough (measured: 100,000)."""
    if text.count(b"[") + text.count(b"{") <= MAX_JSON_DEPTH:
        return
    depth = 0
    for sign in _BRACKET.findall(_STRING.sub(b"", text)):
        depth += 1 if sign in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            raise UnreadableText(f"{where} is nested deeper than {MAX_JSON_DEPTH}")


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def array_blocks(file: io.BufferedReader) -> Iterator[bytes]:
    """The objects of a JSON array, one below the other, in blocks of about BLOCK_BYTES.

    Raises UnreadableText on anything else, on an object of more than BLOCK_BYTES, and on one that
    is nested deeper than MAX_JSON_DEPTH.
    """
    found: list[bytes] = []
    size = 0
    for index, text in enumerate(_Array(file).objects()):
        _check_depth(text, f"element {index} of the JSON array")
        found.append(text)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield b"\n".join(found)
            found, size = [], 0
    if found:
        yield b"\n".join(found)


class _Array:
    """A window on the text of a JSON array. json.raw_decode finds where an object ends; streaming
    parsers that keep the path of every value can be made to use memory quadratic in its depth."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0

    def objects(self) -> Iterator[bytes]:
        """The text of each object."""
        # Numbers stay text: only the ends are wanted.
        parse = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
        index = 0
        self._take("[", index)
        while not (index == 0 and self._next() == "]"):
            if self._next() not in ("{", ""):
                raise UnreadableText(f"element {index} of the JSON array is no object")
            try:
                _, end = parse(self._text, self._at)
            except RecursionError:
                raise UnreadableText(f"element {index} of the JSON array is too deep") from None
            except json.JSONDecodeError as error:
                left = len(self._text) - self._at
                if left <= BLOCK_BYTES and self._refill():
                    continue
                what = error.msg if left <= BLOCK_BYTES else f"over {BLOCK_BYTES >> 20} MiB"
                raise UnreadableText(
                    f"element {index} of the JSON array is not sound ({what}); is the file whole?"
                ) from None
            yield self._text[self._at : end].encode()
            self._at = end
            index += 1
            if self._next() == "]":
                break
            self._take(",", index)
        self._take("]", index)
        self._take("", index)

    def _take(self, sign: str, index: int) -> None:
        if self._next() != sign:
            wanted = f"{sign!r} is missing" if sign else "more follows"
            raise UnreadableText(f"{wanted} after {index} elements of the JSON array")
        self._at += 1

    def _next(self) -> str:
        """The next character that is not blank; nothing at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text) or not self._refill():
                return self._text[self._at : self._at + 1]

    def _refill(self) -> bool:
        data = self._file.read(BLOCK_BYTES)
        more = self._decoder.decode(data, final=not data)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(data)


_BLANK = re.compile(r"[ \t\r\n]*")
