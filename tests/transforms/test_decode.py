import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecap.schemas.outcomes import Reason
from facecap.transforms import decode as decode_module
from facecap.transforms.decode import DecodeOptions, decode
from facecap.transforms.railway import Dropped
from tests.pictures import BLUE, GREEN, RED, WHITE, corners, encoded, photo, quadrants

# pytest resets the filters that the module sets; that nothing is printed is tested at the end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

ROOT = Path(__file__).parents[2]
OPTIONS = DecodeOptions()


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
    with pytest.raises(Dropped, match="Lab") as dropped:
        decode(encoded(Image.new("LAB", (4, 4)), "TIFF"), OPTIONS)
    assert dropped.value.drop.reason is Reason.UNSUPPORTED_FORMAT


def test_scaled_decoding_is_never_below_the_scale():
    for width, height in ((1001, 667), (37, 500), (3, 2), (1, 1), (640, 480)):
        body = encoded(photo(width, height), "JPEG")
        for scale in (0.1, 0.125, 0.2, 0.25, 0.26, 0.3125, 0.5, 0.51, 1.0):
            h, w = decode(body, OPTIONS, scale=scale).shape[:2]
            assert w >= width * scale and h >= height * scale
    assert decode(encoded(photo(1001, 667), "JPEG"), OPTIONS, scale=0.25).shape == (167, 251, 3)
    assert decode(encoded(photo(64, 64), "PNG"), OPTIONS, scale=0.25).shape == (64, 64, 3)


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
        "import sys\n"
        "from facecap.transforms.decode import DecodeOptions, decode\n"
        "body = sys.stdin.buffer.read()\n"
        "from tests.memory import peak_bytes\n"
        "before = peak_bytes()\n"
        "decode(body, DecodeOptions())\n"
        "print(peak_bytes() - before)\n"
    )
    body = encoded(Image.new(mode, (4000, 4000)), "PNG", compress_level=1)
    result = subprocess.run(
        [sys.executable, "-c", program], input=body, capture_output=True, check=True, cwd=ROOT
    )
    # Pillow keeps 4 bytes a pixel (2 of 16-bit grey), the result 3, a band some 20 MB more.
    assert int(result.stdout) < 16_000_000 * (6 if mode == "I;16" else 9)


BODIES = [
    *(encoded(photo(), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "BMP")),
    encoded(photo().convert("CMYK"), "JPEG", progressive=True),
    encoded(photo(), "TIFF", compression="tiff_lzw"),
    encoded(photo().convert("P"), "GIF"),
]


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
