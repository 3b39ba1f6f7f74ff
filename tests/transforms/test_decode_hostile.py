"""Files that are cut off, lie, explode or are two things at once: an image or a typed drop."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from facecap.schemas.outcomes import Reason, Stage
from facecap.transforms.decode import DecodeOptions, decode, probe, sniff
from facecap.transforms.railway import Dropped
from tests.pictures import (
    bmp,
    chunk,
    encoded,
    grey,
    inflating,
    interlaced_png,
    mean_error,
    photo,
    png,
    rows,
    scene,
    tiff,
)

# pytest resets the filters that the module sets.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

ROOT = Path(__file__).parents[2]
OPTIONS = DecodeOptions()
SMALL = DecodeOptions(max_pixels=100_000)
SCENE = scene()
JPEG = encoded(SCENE, "JPEG", quality=95)
GIF = encoded(photo().convert("P"), "GIF")
PNG = encoded(SCENE, "PNG")


def reason(body: bytes, options: DecodeOptions = OPTIONS) -> Reason:
    with pytest.raises(Dropped) as dropped:
        decode(body, options)
    assert dropped.value.drop.stage is Stage.DECODE
    return dropped.value.drop.reason


def outcome(body: bytes) -> Reason | None:
    """None when the image is fine; anything but Dropped goes through and fails the test."""
    try:
        info = probe(body, SMALL)
        rgb = decode(body, SMALL)
    except Dropped as dropped:
        return dropped.drop.reason
    assert rgb.dtype == np.uint8 and rgb.shape == (info.height, info.width, 3)
    return None


# Not whole

FILES = {
    "JPEG": encoded(photo(), "JPEG"),
    "progressive JPEG": encoded(photo(), "JPEG", progressive=True),
    "CMYK JPEG": encoded(photo().convert("CMYK"), "JPEG"),
    "PNG": encoded(photo(), "PNG"),
    "interlaced PNG": interlaced_png(np.asarray(photo())),
    "WebP": encoded(photo(), "WEBP"),
    "lossless WebP": encoded(photo(), "WEBP", lossless=True),
    "GIF": GIF,
    "BMP": encoded(photo(), "BMP"),
    "AVIF": encoded(photo(), "AVIF"),
    "TIFF": encoded(photo(), "TIFF"),
    "TIFF, LZW": encoded(photo(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_ends_early(name):
    body = FILES[name]
    assert outcome(body) is None
    for quarter in (1, 2, 3):
        cut = reason(body[: len(body) * quarter // 4])
        # A TIFF's directory can lie behind its pixels: then there is no header left to read.
        assert cut is Reason.TRUNCATED or ("TIFF" in name and cut is Reason.CORRUPT), quarter
    for length in range(18, len(body) * 19 // 20, max(1, len(body) // 40)):
        assert outcome(body[:length]) in (Reason.TRUNCATED, Reason.CORRUPT), length


def test_a_jpeg_without_its_end_marker_is_truncated_or_whole():
    for quality in (50, 75, 90, 95):
        body = encoded(SCENE, "JPEG", quality=quality)
        assert body.endswith(b"\xff\xd9")
        assert reason(body[:-4]) is Reason.TRUNCATED
        if outcome(body[:-2]) is None:  # where the last block's bits were all read
            assert np.array_equal(decode(body[:-2], OPTIONS), decode(body, OPTIONS))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_that_ends_after_its_first_frame(kind):
    others = [Image.new("RGB", photo().size, c) for c in ("red", "blue")]
    body = encoded(photo(), kind, save_all=True, append_images=others, duration=99)
    cut = body[: len(body) - 20]
    if kind == "WEBP":  # says how long it is
        assert reason(cut) is Reason.TRUNCATED
    else:
        assert np.array_equal(decode(cut, OPTIONS), decode(body, OPTIONS))


def test_damaged_pixels_are_corrupt():
    body = bytearray(encoded(photo(), "PNG"))
    at = body.index(b"IDAT") + 40
    body[at : at + 20] = bytes(20)
    assert reason(bytes(body)) is Reason.CORRUPT


def test_an_animation_without_a_timescale_is_corrupt():
    body = encoded(photo(), "AVIF", save_all=True, append_images=[photo()])
    at = body.index(b"mdhd") + 4
    at += 4 + (16 if body[at] == 1 else 8)  # by its version
    assert int.from_bytes(body[at : at + 4], "big") > 0
    assert reason(body[:at] + bytes(4) + body[at + 4 :]) is Reason.CORRUPT


# Not what it seems


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", bytes(5000), b"<!DOCTYPE html><html>", b"\xef\xbb\xbf  <html>" + JPEG,
     b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<?xml version='1.0'?><svg/>", b"\x1f\x8b\x08",
     b"BMW is a maker of cars, not a bitmap", b"%PDF-1.7" + JPEG, b"PK\x03\x04" + JPEG, b"GIF90a",
     b"RIFF\x00\x00\x00\x00WAVEfmt ", b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2mp41",
     b"%!PS-Adobe-3.0 EPSF-3.0", b"P6 1 1 255 abc", b'{"error": "not found"}', b"\xff\xd8",
     b"\x89PNG"],
)  # fmt: skip
def test_what_is_no_image(body):
    assert reason(body) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "body",
    [b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", b"\xff\x0a\xfa\x7f", b"8BPS\x00\x01",
     b"\x00\x00\x01\x00\x01\x00\x10\x10", b"\x00\x00\x00\x0cjP  \r\n\x87\n"],
)  # fmt: skip
def test_known_formats_that_are_not_decoded(body):
    assert reason(body) is Reason.UNSUPPORTED_FORMAT


def test_avif_under_another_major_brand():
    assert sniff(b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf") == "AVIF"


def test_bytes_decide_and_nothing_else():
    """Names and content types do not come this far."""
    for name, body in FILES.items():
        kind = name.split(",")[0].split()[-1].upper()
        assert sniff(body) == probe(body, OPTIONS).format == kind
        for other in FILES.values():
            assert sniff(body[:20] + other) == kind
            outcome(body[:20] + other)  # an image or a drop


SCRIPT = b"<script>alert(1)</script><?php system($_GET[0]); ?>"
ARCHIVE = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize("tail", [SCRIPT, ARCHIVE, b"%PDF-1.7", JPEG, PNG, bytes(10_000)])
@pytest.mark.parametrize("name", FILES)
def test_what_follows_an_image_is_not_looked_at(name, tail):
    assert np.array_equal(decode(FILES[name] + tail, OPTIONS), decode(FILES[name], OPTIONS))


def test_polyglots_are_the_image_that_they_are():
    comment = encoded(SCENE, "JPEG", quality=95, comment=b"--><html>" + SCRIPT)
    assert mean_error(decode(comment, OPTIONS), SCENE) < 1
    text = png((67, 45), 8, 2, zlib.compress(rows(SCENE)), more=chunk(b"tEXt", b"a\0" + SCRIPT))
    assert np.array_equal(decode(text, OPTIONS), SCENE)
    # JavaScript: GIF89a/* ... */=1;alert(1). The width is the two bytes that open the comment.
    picture = Image.fromarray((np.arange(0x2A2F * 4).reshape(4, -1) % 251).astype(np.uint8), "L")
    script = encoded(picture, "GIF") + b"*/=1;alert(1)"
    assert script.startswith(b"GIF89a/*") or script.startswith(b"GIF87a/*")
    assert np.array_equal(decode(script, OPTIONS)[..., 0], np.asarray(picture))


# Larger than it seems


def with_canvas(body: bytes, width: int, height: int) -> bytes:
    """An animated WebP that claims this size."""
    at = body.index(b"VP8X") + 12
    return body[:at] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + (
        body[at + 6 :]
    )  # fmt: skip


def patched(body: bytes, marker: bytes, offset: int, new: bytes) -> bytes:
    at = body.rindex(marker) + offset
    return body[:at] + new + body[at + len(new) :]


MOVING = encoded(
    Image.fromarray(SCENE), "WEBP", save_all=True, append_images=[Image.new("RGB", (67, 45))]
)
LARGEST_WEBP = (0x2F, 16_382 | 16_382 << 14)
CLAIMS = {
    "PNG": png((60_000, 60_000), 8, 2, b""),
    "PNG, most": png((2**31 - 1, 2**31 - 1), 8, 2, b""),
    "PNG, just too large": png((10_001, 10_000), 8, 2, zlib.compress(bytes(1000))),
    "WebP": with_canvas(MOVING, 60_000, 60_000),
    "WebP, most": patched(encoded(SCENE, "WEBP", lossless=True), b"VP8L", 8,
                          struct.pack("<BI", *LARGEST_WEBP)),
    "TIFF": tiff((60_000, 60_000), 1, b"x"),
    "TIFF, deflated": tiff((60_000, 60_000), 8, zlib.compress(bytes(1000))),
    "GIF": patched(GIF, b"GIF", 6, b"\xff\xff\xff\xff"),
    "JPEG": patched(JPEG, b"\xff\xc0", 5, b"\xff\xff\xff\xff"),
    "BMP": bmp((60_000, 60_000), 24, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_too_many_pixels_are_seen_in_the_header(name):
    assert reason(CLAIMS[name]) is Reason.TOO_MANY_PIXELS
    with pytest.raises(Dropped, match="too_many_pixels"):
        probe(CLAIMS[name], OPTIONS)


GIGABYTES = inflating(2)
DOT = zlib.compress(rows(scene(16, 16)))
TILE = (322, 20_000), (323, 20_000)
BOMBS = {
    **CLAIMS,
    "PNG, pixels": png((16, 16), 8, 2, GIGABYTES),
    "PNG, text": png((16, 16), 8, 2, DOT, more=chunk(b"zTXt", b"a\0\0" + GIGABYTES)),
    "PNG, international text": png(
        (16, 16), 8, 2, DOT, more=chunk(b"iTXt", b"a\0\1\0\0\0" + GIGABYTES)
    ),
    "PNG, colour profile": png((16, 16), 8, 2, DOT, more=chunk(b"iCCP", b"a\0\0" + GIGABYTES)),
    "WebP, small canvas": with_canvas(MOVING, 1, 1),
    "TIFF, strip": tiff((16, 16), 8, GIGABYTES),
    "TIFF, tile": tiff((16, 16), 8, GIGABYTES, *TILE),
    "TIFF, tile of two sizes": tiff((16, 16), 8, GIGABYTES, *TILE, (322, 16), (323, 16)),
    "TIFF, a tag's length": b"II*\0" + struct.pack("<IH", 8, 2)
    + struct.pack("<HHII", 256, 4, 1, 16) + struct.pack("<HHII", 700, 1, 2**32 - 1, 8) + bytes(4),
    "GIF, frame": patched(GIF, b",\0\0\0\0", 5, b"\xff\xff\xff\xff"),
    "BMP, run lengths": bmp((9_000, 9_000), 8, b"\0\1", compression=1, palette=bytes(1024)),
}  # fmt: skip


def test_bombs_take_little_memory_and_time():
    assert len(GIGABYTES) < 2_500_000 and zlib.decompressobj().decompress(GIGABYTES, 10**6)
    program = (
        "import sys, time\n"
        "from facecap.transforms.decode import DecodeOptions, decode, probe\n"
        "from facecap.transforms.railway import Dropped\n"
        "from tests.memory import peak_bytes\n"
        "read = sys.stdin.buffer.read\n"
        "while length := int.from_bytes(read(8), 'big'):\n"
        "    body, before, start = read(length), peak_bytes(), time.process_time()\n"
        "    for call in probe, decode:\n"
        "        try:\n"
        "            call(body, DecodeOptions())\n"
        "        except Dropped:\n"
        "            pass\n"
        "    print(peak_bytes() - before, time.process_time() - start)\n"
    )
    bodies = [encoded(SCENE, kind) for kind in ("PNG", "WEBP", "TIFF")] + list(BOMBS.values())
    sent = b"".join(len(body).to_bytes(8, "big") + body for body in bodies)
    result = subprocess.run(
        [sys.executable, "-c", program], input=sent, capture_output=True, check=True, cwd=ROOT
    )
    took = [tuple(map(float, line.split())) for line in result.stdout.splitlines()]
    assert len(took) == len(bodies)
    for name, (memory, seconds) in zip(["", "", "", *BOMBS], took, strict=True):
        assert memory < 100_000_000, name
        assert seconds < 2, name


def test_a_tile_larger_than_the_image_is_fine():
    tile = np.zeros((64, 64), np.uint8)
    tile[:16, :16] = grey(16, 16)
    body = tiff((16, 16), 8, zlib.compress(tile.tobytes()), (322, 64), (323, 64))
    assert np.array_equal(decode(body, OPTIONS)[..., 0], grey(16, 16))


def progressive(scans: int, more: bytes = b"") -> bytes:
    """A progressive JPEG of `scans` scans and metadata `more`; its last scan is repeated."""
    body = encoded(photo(), "JPEG", progressive=True, exif=more)
    last = body.rindex(b"\xff\xda")
    start = body.rindex(b"\xff\xc4", 0, last)  # with its Huffman table
    repeated = scans - body.count(b"\xff\xda", body.index(b"\xff\xc2"))
    return body[:-2] + body[start:-2] * repeated + body[-2:]


def test_a_jpeg_of_too_many_scans_is_corrupt():
    assert outcome(progressive(500)) is None
    with pytest.raises(Dropped, match="too many scans"):
        decode(progressive(501), OPTIONS)
    with pytest.raises(Dropped, match="too many scans"):  # also where libjpeg skips what is between
        decode(progressive(501).replace(b"\xff\xda", b"xyz\xff\xff\xff\xda"), OPTIONS, scale=0.1)


def test_only_scans_count_as_scans():
    look_alike = b"\xff\xda" * 600
    assert outcome(progressive(12, look_alike)) is None
    assert outcome(encoded(photo(), "JPEG", comment=look_alike) + look_alike) is None


# Damaged at random


def whole_files() -> list[bytes]:
    exif = Image.Exif()
    exif[0x112] = 6
    moving = encoded(photo(), "AVIF", save_all=True, append_images=[photo()])
    turned = [encoded(photo(), kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
    layered = [encoded(photo().convert(mode), "PNG") for mode in ("P", "LA", "I;16")]
    return [*FILES.values(), *turned, *layered, moving]


WHOLE = whole_files()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_image_or_a_drop(body):
    outcome(body)


def damaged(data, seeds: list[bytes]) -> bytes:
    body = bytearray(data.draw(st.sampled_from(seeds)))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(12, len(body))) :]
    for _ in range(data.draw(st.integers(1, 6))):
        last = len(body) - 1
        at = data.draw(st.integers(0, last) | st.integers(0, min(last, 200)))
        body[at] = data.draw(st.sampled_from([0, 255]) | st.integers(0, 255))
    return bytes(body)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_any_damage_to_an_image_is_an_image_or_a_drop(data):
    outcome(damaged(data, WHOLE))


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(st.data())
def test_much_damage_to_an_avif(data):
    outcome(damaged(data, [body for body in WHOLE if sniff(body) == "AVIF"]))


def with_tag_type(block: bytes, start: int, entry: int, kind: int) -> bytes:
    """A little-endian TIFF structure that begins at `start`, one tag's type set to `kind`."""
    directory = start + int.from_bytes(block[start + 4 : start + 8], "little")
    at = directory + 2 + 12 * entry + 2
    return block[:at] + kind.to_bytes(2, "little") + block[at + 2 :]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tags_of_every_wrong_type_are_an_image_or_a_drop(compression):
    exif = Image.Exif()
    exif[0x112] = 6
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = b'<x tiff:Orientation="3"/>'
    kept = encoded(photo(), "TIFF", compression=compression, tiffinfo=tags)
    turned = encoded(photo(), "TIFF", compression=compression, exif=exif)
    jpeg = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0" + exif.tobytes()[10:])
    seen = set()
    for body, start in ((kept, 0), (turned, 0), (jpeg, jpeg.index(b"II*\0"))):
        for kind in range(19):
            for entry in range(14 if start == 0 else 1):
                seen.add(outcome(with_tag_type(body, start, entry, kind)))
    assert {None, Reason.CORRUPT} <= seen
