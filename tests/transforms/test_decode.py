import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from facecap.schemas.outcomes import Reason, Stage
from facecap.schemas.sample import ImageInfo
from facecap.transforms import decode as decode_module
from facecap.transforms.decode import DecodeOptions, decode, probe, sniff
from facecap.transforms.railway import Dropped

# pytest resets the filters that the module sets; that nothing is printed is tested at the end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

OPTIONS = DecodeOptions()
SMALL = DecodeOptions(max_pixels=100_000)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(width=48, height=32) -> Image.Image:
    """Upright: red, green / blue, white; wider than high."""
    image = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    image[:] = WHITE
    image[top] = GREEN
    image[:, left] = BLUE
    image[top, left] = RED
    return Image.fromarray(image)


def corners(rgb: np.ndarray) -> list[tuple[int, ...]]:
    """The colours of the four quadrants, every channel rounded to 0 or 255."""
    h, w = rgb.shape[:2]
    points = [
        (h // 4, w // 4),
        (h // 4, 3 * w // 4),
        (3 * h // 4, w // 4),
        (3 * h // 4, 3 * w // 4),
    ]
    return [tuple(int(v > 127) * 255 for v in rgb[p]) for p in points]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width=104, height=80) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height))


def reason(body: bytes, options: DecodeOptions = OPTIONS) -> Reason:
    with pytest.raises(Dropped) as dropped:
        decode(body, options)
    assert dropped.value.drop.stage is Stage.DECODE
    return dropped.value.drop.reason


# What a camera held in each of the eight ways stores for the same scene.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_out_upright(kind, orientation):
    turn = STORED[orientation]
    stored = quadrants() if turn is None else quadrants().transpose(turn)
    exif = Image.Exif()
    exif[0x112] = orientation
    more = {"save_all": True, "append_images": [stored]} if kind == "MPO" else {}
    body = encoded(stored, kind, exif=exif, **more)
    assert probe(body, OPTIONS) == ImageInfo(kind, 48, 32)
    for scale in (1.0, 0.5):
        assert corners(decode(body, OPTIONS, scale=scale)) == [RED, GREEN, BLUE, WHITE]
    assert decode(body, OPTIONS).shape == (32, 48, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_unknown_orientation_counts_as_upright(value):
    exif = Image.Exif()
    exif[0x112] = value
    body = encoded(quadrants(), "JPEG", exif=exif)
    assert corners(decode(body, OPTIONS)) == [RED, GREEN, BLUE, WHITE]


def test_a_broken_exif_block_counts_as_upright():
    body = encoded(quadrants(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert corners(decode(body, OPTIONS)) == [RED, GREEN, BLUE, WHITE]
    assert corners(decode(encoded(quadrants(), "JPEG", exif=b"nonsense"), OPTIONS))[0] == RED


def test_an_orientation_in_xmp_alone_is_no_exif():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    body = encoded(quadrants(), "JPEG", xmp=xmp)
    assert corners(decode(body, OPTIONS)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "BMP"), ("P", "GIF"), ("P", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGB", "AVIF"),
     ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG")],
)  # fmt: skip
def test_coloured_modes(mode, kind):
    body = encoded(quadrants().convert(mode), kind)
    assert corners(decode(body, OPTIONS)) == [RED, GREEN, BLUE, WHITE]


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for image, kind, more, expected in (
        (clear, "PNG", {}, WHITE),
        (clear, "WEBP", {"lossless": True, "exact": True}, WHITE),
        (half, "PNG", {}, (127, 127, 127)),
        (palette, "PNG", {"transparency": 1}, WHITE),
        (palette, "PNG", {"transparency": 0}, RED),
        (palette, "GIF", {"transparency": 1}, WHITE),
        (Image.new("RGB", (4, 4), RED), "PNG", {"transparency": RED}, WHITE),
        (Image.new("L", (4, 4), 9), "PNG", {"transparency": 9}, WHITE),
    ):
        rgb = decode(encoded(image, kind, **more), OPTIONS)
        assert np.array_equal(np.unique(rgb.reshape(-1, 3), axis=0), [expected]), (image, kind)


def test_grey_of_every_depth():
    def levels(array, kind="PNG"):
        rgb = decode(encoded(Image.fromarray(array), kind), OPTIONS)
        assert np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])
        return rgb[0, :, 0].tolist()

    assert levels(np.array([[0, 77, 255]], np.uint8)) == [0, 77, 255]
    assert levels(np.array([[False, True]])) == [0, 255]
    assert levels(np.array([[0, 255, 256, 65535]], np.uint16)) == [0, 0, 1, 255]
    assert levels(np.array([[0, 255, 256, 65535]], np.uint16), "TIFF") == [0, 0, 1, 255]
    assert levels(np.array([[-5, 256, 70000]], np.int32), "TIFF") == [0, 1, 255]
    assert levels(np.array([[0, 0.5, 1]], np.float32), "TIFF") == [0, 128, 255]
    assert levels(np.array([[-3, 100, 999, np.nan]], np.float32), "TIFF") == [0, 100, 255, 0]


def test_lab_pixels_are_refused():
    assert reason(encoded(Image.new("LAB", (4, 4)), "TIFF")) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation(kind):
    second = Image.new("RGB", (48, 32), "black")
    body = encoded(quadrants(), kind, save_all=True, append_images=[second])
    assert corners(decode(body, OPTIONS)) == [RED, GREEN, BLUE, WHITE]


def test_scaled_decoding_is_never_below_the_scale():
    for width, height in ((1001, 667), (37, 500), (3, 2), (1, 1), (640, 480)):
        body = encoded(photo(width, height), "JPEG")
        for scale in (0.1, 0.125, 0.2, 0.25, 0.26, 0.3125, 0.5, 0.51, 1.0):
            h, w = decode(body, OPTIONS, scale=scale).shape[:2]
            assert w >= width * scale and h >= height * scale
    assert decode(encoded(photo(1001, 667), "JPEG"), OPTIONS, scale=0.25).shape == (167, 251, 3)
    assert decode(encoded(photo(64, 64), "PNG"), OPTIONS, scale=0.25).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", b"<!DOCTYPE html><html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
     b"BMW is a maker of cars, not a bitmap", b"%PDF-1.7", b"RIFF\x00\x00\x00\x00WAVEfmt ",
     b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2mp41"],
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_body_that_ends_early(kind, share):
    body = encoded(photo(), kind)
    assert reason(body[: int(len(body) * share)]) in (
        # A TIFF's directory can lie behind its pixels: then there is no header left to read.
        {Reason.TRUNCATED, Reason.CORRUPT} if kind == "TIFF" else {Reason.TRUNCATED}
    )


def test_a_jpeg_without_its_end_marker_counts_as_truncated():
    body = encoded(photo(), "JPEG")
    assert body.endswith(b"\xff\xd9")
    assert reason(body[:-2]) is Reason.TRUNCATED


def test_damaged_pixels_are_corrupt():
    body = bytearray(encoded(photo(), "PNG"))
    at = body.index(b"IDAT") + 40
    body[at : at + 20] = bytes(20)
    assert reason(bytes(body)) is Reason.CORRUPT


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_001, 10_000), (14_000, 14_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_seen_in_the_header(size):
    body = png_header(*size)
    assert reason(body) is Reason.TOO_MANY_PIXELS
    with pytest.raises(Dropped, match="too_many_pixels"):
        probe(body, OPTIONS)


def test_a_text_chunk_that_explodes_is_corrupt():
    bomb = b"comment\x00\x00" + zlib.compress(bytes(100_000_000))
    crc = struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + crc
    body = encoded(photo(), "PNG")
    assert reason(body[:33] + chunk + body[33:]) is Reason.CORRUPT


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


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("1", "PNG"), ("CMYK", "TIFF"),
     ("I;16", "PNG"), ("I;16B", "TIFF"), ("I", "TIFF"), ("F", "TIFF")],
)  # fmt: skip
def test_an_image_of_many_bands_is_that_of_one(mode, kind, monkeypatch):
    rng = np.random.default_rng(0)
    if mode in ("I;16", "I;16B", "I", "F"):
        kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
        image = Image.fromarray(rng.integers(0, 65536, (37, 53)).astype(kinds[mode]))
    else:
        image = Image.fromarray(rng.integers(0, 256, (37, 53, 4), np.uint8)).convert(mode)
    assert image.mode == mode
    body = encoded(image, kind)
    whole = decode(body, OPTIONS)
    monkeypatch.setattr(decode_module, "_BAND_PIXELS", 300)
    assert len(np.unique(whole)) > 1 and np.array_equal(decode(body, OPTIONS), whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_large_image_needs_little_more_than_its_pixels(mode):
    program = (
        "import resource, sys\n"
        "from facecap.transforms.decode import DecodeOptions, decode\n"
        "body = sys.stdin.buffer.read()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "decode(body, DecodeOptions())\n"
        "print(peak() - before)\n"
    )
    body = encoded(Image.new(mode, (4000, 4000)), "PNG", compress_level=1)
    result = subprocess.run([sys.executable, "-c", program], input=body, capture_output=True)
    # Pillow keeps 4 bytes a pixel (2 of 16-bit grey), the result 3.
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(result.stdout) * unit < 16_000_000 * (6 if mode == "I;16" else 8)


def test_an_animation_without_a_timescale_is_corrupt():
    body = encoded(photo(), "AVIF", save_all=True, append_images=[photo()])
    at = body.index(b"mdhd") + 4
    version = body[at]
    at += 4 + (16 if version == 1 else 8)
    assert int.from_bytes(body[at : at + 4], "big") > 0
    assert reason(body[:at] + bytes(4) + body[at + 4 :]) is Reason.CORRUPT


def bodies() -> list[bytes]:
    exif = Image.Exif()
    exif[0x112] = 6
    made = [
        encoded(photo().convert(mode), kind, exif=exif, **more)
        for kind, mode, more in (
            ("JPEG", "RGB", {}),
            ("JPEG", "CMYK", {"progressive": True}),
            ("PNG", "P", {}),
            ("PNG", "LA", {}),
            ("WEBP", "RGBA", {}),
            ("TIFF", "RGB", {}),
            ("TIFF", "RGB", {"compression": "tiff_lzw"}),
            ("AVIF", "RGB", {}),
        )
    ]
    moving = encoded(photo(), "AVIF", save_all=True, append_images=[photo()])
    return [*made, encoded(photo().convert("P"), "GIF"), encoded(photo(), "BMP"), moving]


BODIES = bodies()


def outcome(body: bytes) -> Reason | None:
    """None when the image is fine; anything but Dropped goes through and fails the test."""
    try:
        info = probe(body, SMALL)
        rgb = decode(body, SMALL)
    except Dropped as dropped:
        return dropped.drop.reason
    assert rgb.dtype == np.uint8 and rgb.shape == (info.height, info.width, 3)
    return None


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
    outcome(damaged(data, BODIES))


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(st.data())
def test_much_damage_to_an_avif(data):
    outcome(damaged(data, [body for body in BODIES if sniff(body) == "AVIF"]))


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
    tiff = encoded(photo(), "TIFF", compression=compression, tiffinfo=tags)
    turned = encoded(photo(), "TIFF", compression=compression, exif=exif)
    jpeg = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0" + exif.tobytes()[10:])
    seen = set()
    for body, start in ((tiff, 0), (turned, 0), (jpeg, jpeg.index(b"II*\0"))):
        for kind in range(19):
            for entry in range(14 if start == 0 else 1):
                seen.add(outcome(with_tag_type(body, start, entry, kind)))
    assert {None, Reason.CORRUPT} <= seen


def test_threads_decode_the_same():
    expected = [decode(body, OPTIONS) for body in BODIES]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for rgb, one in zip(
                pool.map(lambda b: decode(b, OPTIONS), BODIES), expected, strict=True
            ):
                assert np.array_equal(rgb, one)


def test_nothing_is_printed():
    program = (
        "import struct, sys\n"
        "from facecap.transforms.decode import DecodeOptions, decode\n"
        "from facecap.transforms.railway import Dropped\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        decode(bytes.fromhex(line), DecodeOptions())\n"
        "    except Dropped:\n"
        "        pass\n"
    )
    broken_exif = encoded(photo(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01")
    large = encoded(Image.new("1", (10_000, 9_000)), "PNG")  # Pillow warns from 89 million on
    depth = bytearray(encoded(photo(), "TIFF"))  # about too many samples, Pillow logs an error
    depth[depth.index(struct.pack("<HHI", 277, 3, 1)) + 8] = 99
    lines = [broken_exif, large, bytes(depth), b"\xff\xd8\xff\xe0", BODIES[0][:500]]
    result = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(body.hex() for body in lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == result.stderr == ""
