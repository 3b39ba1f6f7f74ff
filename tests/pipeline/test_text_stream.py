"""Text as a stream: what is damaged is said in one line, what is hostile stays small."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecap.pipeline import text_stream
from facecap.pipeline.text_stream import UnreadableText, array_blocks, json_lines, open_text
from tests.memory import forget_peak, peak_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
BLANK = st.text(" \t\r\n", max_size=5)


def read(path: Path, *, gzipped: bool = False) -> bytes:
    with open_text(str(path), path.stat().st_size, gzipped=gzipped) as file:
        return file.read()


@given(data=st.binary(max_size=200))
def test_any_bytes_become_utf8(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(b"x" + data)
    assume(data.count(0) * 3 <= len(data))  # that would be UTF-16
    assert read(path).decode() == "x" + data.decode(errors="replace")


def test_a_byte_order_mark_goes_and_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("url", encoding="utf-8-sig")
    assert read(path) == b"url"
    path.write_text("url", encoding="utf-16")
    with pytest.raises(UnreadableText, match="UTF-16"):
        read(path)


@given(cut=st.integers(1, 200), data=st.data())
def test_a_damaged_gzip_is_unreadable_or_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, data: st.DataObject
) -> None:
    text = "".join(f"http://host/{n * 7919}\n" for n in range(200)).encode()
    packed = bytearray(gzip.compress(text, mtime=0))
    if data.draw(st.booleans()):
        packed = packed[:-cut]
    else:
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(packed)
    try:
        assert read(path, gzipped=True) == text  # the header's time and name do not matter
    except UnreadableText as error:
        assert "fetch it again" in str(error)


def test_a_gzip_bomb_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_stream, "EXPANSION_ALLOWED_BYTES", 4 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(b"".join(gzip.compress(b"\n" * (8 << 20)) for _ in range(20)))
    forget_peak()
    before = peak_bytes()
    read_bytes = 0
    with open_text(str(path), path.stat().st_size, gzipped=True) as file:
        with pytest.raises(UnreadableText, match=r"more than 100 times.*decompress it yourself"):
            while block := file.read(1 << 20):
                read_bytes += len(block)
    assert read_bytes <= 100 * path.stat().st_size
    assert peak_bytes() - before < 64 << 20


def objects(blocks: list[bytes]) -> list[object]:
    decoder, found = json.JSONDecoder(), []
    text = b"\n".join(blocks).decode()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4),
    blank=BLANK,
    block=st.integers(8, 64),
)
def test_an_array_is_read_as_json_reads_it(
    items: list[dict[str, object]], blank: str, block: int
) -> None:
    text = blank + json.dumps(items, ensure_ascii=False, separators=(f",{blank}", ":")) + blank
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_stream, "BLOCK_BYTES", block)
        file = io.BufferedReader(io.BytesIO(text.encode()))
        try:
            assert objects(list(array_blocks(file))) == items
        except UnreadableText as error:
            assert max(len(json.dumps(item)) for item in items) > block, error


@given(text=st.text('[]{},:"\\ a1', max_size=40))
def test_only_an_array_of_objects_is_one(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    good = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    try:
        found = objects(list(array_blocks(io.BufferedReader(io.BytesIO(text.encode())))))
    except UnreadableText:
        assert not good
    else:
        assert good and found == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"u": 1}, 2]', "element 1 of the JSON array is no object"),
        ('[{"u": 1},', "element 1 of the JSON array is not sound .* is the file whole"),
        ('[{"u": 1}', r"'\]' is missing|',' is missing"),
        ('[{"u": 1}] {}', "more follows after 1 elements"),
        ('[{"u": ' + "[" * 100_000, "too deep"),
        ('[{"u": ' + "[" * 40 + "]" * 40 + "}]", "nested deeper than 32"),
    ],
)
def test_unsound_arrays_are_explained(text: str, message: str) -> None:
    with pytest.raises(UnreadableText, match=message):
        list(array_blocks(io.BufferedReader(io.BytesIO(text.encode()))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"u": 1}\n{"u":\n1}', "line 2 holds no whole object"),
        ('{"u": 1}\n\n{"u": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 3 is nested deeper"),
        ('{"u": 1, "s": "]]]]]]", "t": ' + "[" * 33 + "]" * 33 + "}", "line 1 is nested deeper"),
        ('{"u": "' + "x" * (17 << 20) + '"}', "a line of more than 8 MiB"),
    ],
)
def test_unsound_lines_are_explained(text: str, message: str) -> None:
    with pytest.raises(UnreadableText, match=message):
        list(json_lines(io.BufferedReader(io.BytesIO(text.encode()))))


def test_brackets_in_text_are_no_nesting() -> None:
    line = json.dumps({"u": "[" * 500, "v": '\\"{{{{' * 20}).encode()
    assert list(json_lines(io.BufferedReader(io.BytesIO(line)))) == [line]
