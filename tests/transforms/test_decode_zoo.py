"""Every kind of image file against the picture that was put into it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import ImageInfo
from facecap.transforms.decode import DecodeOptions, decode, probe
from facecap.transforms.railway import Dropped
from tests import pictures
from tests.pictures import (
    BLUE,
    RED,
    RGB,
    adobe,
    bmp,
    bmp_rows,
    chunk,
    cmyk,
    encoded,
    grey,
    interlaced_png,
    mean_error,
    png,
    reduced,
    rows,
    scene,
    segment,
    with_segments,
    ycck_jpeg,
)  # fmt: skip

OPTIONS = DecodeOptions()
FILES = Path(__file__).parent / "zoo"

SCENE = scene()
SIZE = SCENE.shape[1::-1]
GREY = grey()
BLACK_OR_WHITE = GREY > 128
ALPHA = np.full(GREY.shape, 128, np.uint8)


def grey_rgb(samples: np.ndarray) -> RGB:
    return np.dstack([samples] * 3).astype(np.uint8)


def over_white(rgb: RGB, alpha: np.ndarray = ALPHA) -> RGB:
    share = alpha[..., None] / 255
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def zoo_file(name: str) -> bytes:
    """A file that zoo/make.py made of the scene."""
    return (FILES / name).read_bytes()


def shows(body: bytes, truth: RGB, error: float = 0.0) -> None:
    """`body` decodes to `truth`, at most `error` off in the mean and ten times that anywhere."""
    info = probe(body, OPTIONS)
    rgb = decode(body, OPTIONS)
    assert (info.height, info.width, 3) == truth.shape
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    assert mean_error(rgb, truth) <= error
    assert np.abs(rgb.astype(int) - truth).max() <= 10 * error


# What a camera held in each of the eight ways stores for the same scene.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_out_upright(kind, orientation):
    stored = np.ascontiguousarray(STORED[orientation](SCENE))
    exif = Image.Exif()
    exif[0x112] = orientation
    more = {"save_all": True, "append_images": [Image.fromarray(stored)]} if kind == "MPO" else {}
    if kind not in ("PNG", "TIFF"):
        more["quality"] = 95
    body = encoded(stored, kind, exif=exif, **more)
    assert probe(body, OPTIONS) == ImageInfo(kind, *SIZE)
    shows(body, SCENE, 0 if kind in ("PNG", "TIFF") else 1.5)
    for divisor in (2, 4, 8):
        rgb = decode(body, OPTIONS, scale=1 / divisor)
        if kind in ("JPEG", "MPO"):  # the blocks are those of the stored picture
            truth = STORED[{6: 8, 8: 6}.get(orientation, orientation)](reduced(stored, divisor))
            assert mean_error(rgb, truth) < 2
        else:
            assert np.array_equal(rgb, decode(body, OPTIONS))


JPEGS = {
    "4:4:4": (encoded(SCENE, "JPEG", quality=95, subsampling=0), SCENE),
    "4:2:2": (encoded(SCENE, "JPEG", quality=95, subsampling=1), SCENE),
    "4:2:0": (encoded(SCENE, "JPEG", quality=95, subsampling=2), SCENE),
    "grey": (encoded(GREY, "JPEG", quality=95), grey_rgb(GREY)),
    "progressive": (encoded(SCENE, "JPEG", quality=95, progressive=True), SCENE),
    "progressive grey": (encoded(GREY, "JPEG", quality=95, progressive=True), grey_rgb(GREY)),
    "no JFIF": (with_segments(encoded(SCENE, "JPEG", quality=95), {0xE0}), SCENE),
    "Adobe YCbCr": (with_segments(encoded(SCENE, "JPEG", quality=95), {0xE0}, adobe(1)), SCENE),
    "Adobe RGB": (
        with_segments(
            encoded(SCENE, "JPEG", quality=95, keep_rgb=True), {0xE0, 0xEE}, adobe(0)
        ),
        SCENE,
    ),
    "RGB by the components' names": (zoo_file("rgb.jpg"), SCENE),
    "4:1:1": (zoo_file("411.jpg"), SCENE),
    "4:4:0": (zoo_file("440.jpg"), SCENE),
    "4:1:0": (zoo_file("410.jpg"), SCENE),
    "restart markers": (zoo_file("restart.jpg"), SCENE),
    "arithmetic": (zoo_file("arithmetic.jpg"), SCENE),
    "arithmetic progressive": (zoo_file("arithmetic_progressive.jpg"), SCENE),
    "arithmetic grey": (zoo_file("arithmetic_grey.jpg"), grey_rgb(GREY)),
    "CMYK, inverted by Adobe": (
        encoded(Image.fromarray(cmyk(SCENE), "CMYK"), "JPEG", quality=97), SCENE
    ),
    # Nothing says that it is inverted; Pillow takes every JPEG of four components for it.
    "CMYK, inverted, not marked": (
        with_segments(encoded(Image.fromarray(cmyk(SCENE), "CMYK"), "JPEG", quality=97), {0xEE}),
        SCENE,
    ),
    "YCCK": (ycck_jpeg(SCENE), SCENE),
}  # fmt: skip


@pytest.mark.parametrize("name", JPEGS)
def test_jpegs(name):
    body, truth = JPEGS[name]
    shows(body, truth, 2.5 if name in ("4:1:1", "4:1:0") else 1.2)  # chroma of four or eight pixels
    # In a reduced picture libjpeg repeats, not blends, chroma that is finer in one direction: off
    # by up to the scene's step from pixel to pixel, which grows with the divisor.
    uneven = name in ("4:2:2", "4:4:0", "4:1:1", "4:1:0")
    for divisor in (2, 4, 8):
        error = mean_error(decode(body, OPTIONS, scale=1 / divisor), reduced(truth, divisor))
        assert error < (1.7 * divisor if uneven else 1.5)


def test_a_lossless_jpeg_is_exact_and_always_in_full_size():
    body = zoo_file("lossless.jpg")
    for scale in (1.0, 0.5, 0.25, 0.125, 0.01):
        assert np.array_equal(decode(body, OPTIONS, scale=scale), SCENE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("12_bit.jpg", "12-bit"), ("lossless_16_bit.jpg", "16-bit"),
     ("two_components.jpg", "2 components"), ("picture.heic", "HEIF"),
     ("picture.jp2", "JPEG 2000"), ("picture.j2k", "JPEG 2000"), ("picture.jxl", "JPEG XL"),
     ("picture.jxr", "JPEG XR"), ("picture.qoi", "QOI")],
)  # fmt: skip
def test_sound_files_that_are_not_decoded_say_what_they_are(name, kind):
    with pytest.raises(Dropped, match=kind) as dropped:
        decode(zoo_file(name), OPTIONS)
    assert dropped.value.drop.reason is Reason.UNSUPPORTED_FORMAT


def test_a_hierarchical_jpeg_is_not_decoded():
    body = JPEGS["4:4:4"][0].replace(b"\xff\xc0", b"\xff\xc5")
    with pytest.raises(Dropped, match="hierarchical") as dropped:
        decode(body, OPTIONS)
    assert dropped.value.drop.reason is Reason.UNSUPPORTED_FORMAT


def sixteen(samples: np.ndarray, colour: int, more: bytes = b"") -> bytes:
    """A 16-bit PNG whose upper bytes are these."""
    rows_of_it = rows(samples.astype(np.uint16) * 256 + 99)
    return png(SIZE, 16, colour, zlib.compress(rows_of_it), more=more)


def colour_key(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def palette_image() -> tuple[Image.Image, RGB]:
    """An image of 200 colours, and its pixels."""
    index = (GREY.astype(int) * 199 // 255).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (200, 3), np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    return image, colours[index]


PALETTE, PALETTE_RGB = palette_image()
INDEX = np.asarray(PALETTE)
GREY_KEY, RGB_KEY = int(GREY[3, 3]), [int(v) for v in SCENE[3, 3]]
PNGS = {
    "RGB": (encoded(SCENE, "PNG"), SCENE),
    "RGB, interlaced": (interlaced_png(SCENE), SCENE),
    "RGB, colour key": (
        png(SIZE, 8, 2, zlib.compress(rows(SCENE)), more=colour_key(*RGB_KEY)),
        np.where((SCENE == RGB_KEY).all(-1)[..., None], 255, SCENE),
    ),
    "RGBA": (encoded(np.dstack([SCENE, ALPHA]), "PNG"), over_white(SCENE)),
    "grey": (encoded(GREY, "PNG"), grey_rgb(GREY)),
    "grey, colour key": (
        png(SIZE, 8, 0, zlib.compress(rows(GREY)), more=colour_key(GREY_KEY)),
        grey_rgb(np.where(GREY == GREY_KEY, 255, GREY)),
    ),
    "LA": (
        encoded(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"), over_white(grey_rgb(GREY))
    ),
    "1-bit": (encoded(BLACK_OR_WHITE, "PNG"), grey_rgb(BLACK_OR_WHITE * 255)),
    "2-bit": (
        png(SIZE, 2, 0, zlib.compress(rows(np.full((45, 17), 0b00011011, np.uint8)))),
        grey_rgb(np.tile([0, 85, 170, 255], (45, 17))[:, :67]),
    ),
    "16-bit grey": (sixteen(GREY, 0), grey_rgb(GREY)),
    "16-bit grey, colour key": (
        sixteen(GREY, 0, colour_key(GREY_KEY * 256 + 99)),
        grey_rgb(np.where(GREY == GREY_KEY, 255, GREY)),
    ),
    "16-bit RGB": (sixteen(SCENE, 2), SCENE),
    "16-bit LA": (sixteen(np.dstack([GREY, ALPHA]), 4), over_white(grey_rgb(GREY))),
    "16-bit RGBA": (sixteen(np.dstack([SCENE, ALPHA]), 6), over_white(SCENE)),
    "palette": (encoded(PALETTE, "PNG"), PALETTE_RGB),
    "palette, one clear": (
        encoded(PALETTE, "PNG", transparency=7),
        np.where((INDEX == 7)[..., None], 255, PALETTE_RGB),
    ),
    "palette with alpha": (
        encoded(PALETTE, "PNG", transparency=bytes(range(200))), over_white(PALETTE_RGB, INDEX)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PNGS)
def test_pngs(name):
    body, truth = PNGS[name]
    shows(body, truth, 0.1 if "alpha" in name else 0)  # the last bit of a blend is anybody's


def test_tiffs():
    for compression in (None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"):
        shows(encoded(SCENE, "TIFF", compression=compression), SCENE)
    shows(encoded(SCENE, "TIFF", compression="jpeg", quality=95), SCENE, 1.2)
    shows(encoded(Image.fromarray(cmyk(SCENE), "CMYK"), "TIFF"), SCENE, 0.5)
    shows(encoded(np.dstack([SCENE, ALPHA]), "TIFF"), over_white(SCENE))
    shows(encoded(PALETTE, "TIFF"), PALETTE_RGB)
    shows(encoded(BLACK_OR_WHITE, "TIFF"), grey_rgb(BLACK_OR_WHITE * 255))
    shows(encoded(BLACK_OR_WHITE, "TIFF", compression="group4"), grey_rgb(BLACK_OR_WHITE * 255))
    shows(encoded(GREY.astype(np.uint16) * 256 + 99, "TIFF"), grey_rgb(GREY))
    shows(encoded(SCENE, "TIFF", big_tiff=True), SCENE)
    second = Image.new("RGB", SIZE)
    shows(encoded(SCENE, "TIFF", save_all=True, append_images=[second]), SCENE)


def test_webp_and_avif():
    shows(encoded(SCENE, "WEBP", lossless=True), SCENE)
    shows(encoded(SCENE, "WEBP", quality=95), SCENE, 1.5)
    shows(encoded(np.dstack([SCENE, ALPHA]), "WEBP", lossless=True), over_white(SCENE))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        shows(encoded(SCENE, "AVIF", quality=95, subsampling=subsampling), SCENE, 1.5)
    shows(encoded(GREY, "AVIF", quality=95), grey_rgb(GREY), 1.5)
    shows(encoded(np.dstack([SCENE, ALPHA]), "AVIF", quality=97), over_white(SCENE), 1.5)


def test_gifs():
    shows(encoded(PALETTE, "GIF"), PALETTE_RGB)
    shows(encoded(PALETTE, "GIF", interlace=1), PALETTE_RGB)
    clear = encoded(PALETTE, "GIF", transparency=7)
    shows(clear, np.where((INDEX == 7)[..., None], 255, PALETTE_RGB))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_first_frame_of_an_animation(kind):
    first = PALETTE if kind == "GIF" else Image.fromarray(SCENE)
    truth = PALETTE_RGB if kind == "GIF" else SCENE
    more = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "AVIF" else {}
    others = [Image.new("RGB", SIZE, colour) for colour in ("black", "red")]
    body = encoded(first, kind, save_all=True, append_images=others, duration=100, **more)
    with Image.open(io.BytesIO(body)) as image:
        assert image.n_frames == 3
    shows(body, truth, 1.5 if kind == "AVIF" else 0)
    if kind == "PNG":  # a still picture for those who cannot move comes first
        still = encoded(
            first, kind, save_all=True, default_image=True, append_images=others, duration=100
        )
        shows(still, truth)


def test_a_first_frame_smaller_than_its_canvas_stands_on_white():
    body = bytearray(encoded(PALETTE, "GIF"))
    body[6:10] = struct.pack("<HH", SIZE[0] + 10, SIZE[1] + 5)  # the logical screen
    truth = np.full((SIZE[1] + 5, SIZE[0] + 10, 3), 255, np.uint8)
    truth[: SIZE[1], : SIZE[0]] = PALETTE_RGB
    rgb = decode(bytes(body), OPTIONS)
    assert np.array_equal(rgb[: SIZE[1], : SIZE[0]], PALETTE_RGB)
    assert rgb.shape == truth.shape


def run_lengths(samples: np.ndarray) -> bytes:
    """BMP's RLE8: each pixel a run of one, rows from the bottom."""
    return b"".join(
        b"".join(bytes((1, int(v))) for v in row) + b"\0\0" for row in samples[::-1]
    ) + b"\0\1"  # fmt: skip


BGR = SCENE[..., ::-1]
FIVE = SCENE.astype(np.uint16) >> 3
SIX = SCENE[..., 1].astype(np.uint16) >> 2
GREYS = b"".join(bytes((i, i, i, 0)) for i in range(256))
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
UPRIGHT = bmp_rows(BGR)
BMPS = {
    "24 bits": (bmp(SIZE, 24, UPRIGHT), SCENE),
    "24 bits, from the top": (
        bmp((SIZE[0], -SIZE[1]), 24, bmp_rows(BGR, top_down=True)), SCENE
    ),
    "24 bits, OS/2": (bmp(SIZE, 24, UPRIGHT, header=12), SCENE),
    "32 bits, the fourth unused": (bmp(SIZE, 32, bmp_rows(np.dstack([BGR, ALPHA * 0]))), SCENE),
    "32 bits with alpha": (
        bmp(SIZE, 32, bmp_rows(np.dstack([BGR, ALPHA])), compression=3, header=124, masks=MASKS),
        over_white(SCENE),
    ),
    "16 bits, 555": (
        bmp(SIZE, 16, bmp_rows((FIVE @ [1024, 32, 1]).astype("<u2"))),
        np.rint(FIVE * 255 / 31).astype(np.uint8),
    ),
    "16 bits, 565": (
        bmp(SIZE, 16, bmp_rows((FIVE[..., 0] * 2048 + SIX * 32 + FIVE[..., 2]).astype("<u2")),
            compression=3, masks=(0xF800, 0x7E0, 0x1F)),
        np.rint(np.dstack([FIVE[..., 0] / 31, SIX / 63, FIVE[..., 2] / 31]) * 255).astype(np.uint8),
    ),
    "8 bits": (bmp(SIZE, 8, bmp_rows(GREY), palette=GREYS), grey_rgb(GREY)),
    "8 bits, run lengths": (
        bmp(SIZE, 8, run_lengths(GREY), compression=1, palette=GREYS), grey_rgb(GREY)
    ),
    "1 bit in two colours": (
        bmp(SIZE, 1, bmp_rows(np.packbits(BLACK_OR_WHITE, axis=1)),
            palette=bytes((255, 0, 0, 0, 0, 0, 255, 0))),
        np.where(BLACK_OR_WHITE[..., None], RED, BLUE).astype(np.uint8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BMPS)
def test_bmps(name):
    body, truth = BMPS[name]
    shows(body, truth, 0.6 if "16 bits" in name else 0)  # how 31 steps become 255 is anybody's


def test_an_embedded_thumbnail_is_not_the_picture():
    thumbnail = encoded(Image.new("RGB", (16, 12), "black"), "JPEG")
    exif = Image.Exif()
    exif[0x112] = 1
    tags = exif.tobytes()
    body = with_segments(JPEGS["4:2:0"][0], set(), segment(0xE1, tags + thumbnail))
    shows(body, SCENE, 1.2)
    assert len(body) > len(thumbnail)
    with pytest.raises(Dropped, match="truncated"):
        decode(body[: len(body) * 3 // 4], OPTIONS)


def test_the_second_picture_of_an_mpo_is_not_the_picture():
    second = Image.new("RGB", (640, 480))
    body = encoded(SCENE, "MPO", quality=95, save_all=True, append_images=[second])
    assert probe(body, OPTIONS).format == "MPO"
    shows(body, SCENE, 1.2)


def test_the_pictures_are_told_apart():
    """The scene differs from each of its turned selves far more than any bound above."""
    for orientation in range(2, 5):
        assert mean_error(STORED[orientation](SCENE), SCENE) > 15
    assert mean_error(pictures.reduced(SCENE, 1), SCENE) == 0
    assert mean_error(SCENE[..., ::-1], SCENE) > 15
