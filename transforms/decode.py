"""Decode: bytes from anywhere become upright 8-bit RGB, or a drop that says why not.

The policy, for every format:
- What the bytes are is judged by the bytes. Pillow then opens them as that format and no other.
- The EXIF orientation is applied (TIFF: the tag; AVIF: the box; a PNG's eXIf chunk counts where
  it stands before the pixels). An unreadable or unknown orientation counts as upright.
- Of an animation or a file of several pages the first frame is taken.
- Transparency (alpha, palette or colour key) is laid over white.
- 1-bit is black and white; 16-bit samples keep their upper byte; 32-bit integers are taken for
  16-bit samples and clipped; floats are taken as 0..1 where none is above 1, else as 0..255.
- CMYK and YCCK (Adobe's inverted ones, too) are converted by Pillow's arithmetic; embedded
  colour profiles are ignored: no colour management. Lab pixels are refused.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from facecap.schemas.options import Options, content
from facecap.schemas.outcomes import Reason, Stage
from facecap.schemas.sample import ImageInfo
from facecap.transforms import jpeg_markers
from facecap.transforms.railway import Dropped

# What Pillow says about bad data is said by the drop. Of the whole process, set once: catching
# warnings per call is not thread-safe.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Workers are processes: one thread each, in OpenCV as in ONNX Runtime. Here because every stage
# that uses OpenCV imports this module.
cv2.setNumThreads(1)

RGB = npt.NDArray[np.uint8]

_XMP_TAG = 700
_TILE_TAGS = (322, 323)
_TILE_PIXELS = 16_777_216
"""A tile of a TIFF may be larger than the image, but by no more than this."""

_BOMB = 178_956_970
"""Above this many pixels (twice its MAX_IMAGE_PIXELS) Pillow itself refuses an image."""

_BAND_PIXELS = 1_000_000
"""Pixels converted at once, so that the copies of a large image on the way are small."""


class DecodeOptions(Options):
    """Limits on images."""

    max_pixels: int = content(
        100_000_000, "largest image, in pixels (width x height, by its header)", ge=1, le=_BOMB
    )


_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"II\xbc", "JPEG XR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
_SUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}


def sniff(body: bytes) -> str:
    """The format of an image by its first bytes, in Pillow's names.

    Raises Dropped: not_an_image, or unsupported_format for an image this build cannot decode.
    """
    for magic, name in _SUPPORTED:
        if body.startswith(magic):
            return name
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "WEBP"
    if body[:2] == b"BM" and int.from_bytes(body[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if body[4:8] == b"ftyp":
        length = min(int.from_bytes(body[:4], "big"), 256)
        brands = {body[i : i + 4] for i in (8, *range(16, length, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            raise Dropped(Stage.DECODE, Reason.UNSUPPORTED_FORMAT, "HEIF")
    for magic, name in _UNSUPPORTED:
        if body.startswith(magic):
            raise Dropped(Stage.DECODE, Reason.UNSUPPORTED_FORMAT, name)
    raise Dropped(Stage.DECODE, Reason.NOT_AN_IMAGE)


def probe(body: bytes, options: DecodeOptions) -> ImageInfo:
    """Format and upright size from the header alone; no pixel is decoded.

    Raises Dropped at the decode stage.
    """
    with opened(body, options) as image:
        return image.info


def decode(body: bytes, options: DecodeOptions, *, scale: float = 1.0) -> RGB:
    """The image upright: uint8 RGB [h, w, 3].

    At `scale` 1 in full size. At a smaller one a JPEG is decoded at the smallest of 1/8, 1/4,
    1/2 and 1 that is not below it (sides rounded up), a lossless JPEG and any other format in full
    size.
    Raises Dropped at the decode stage.
    """
    with opened(body, options) as image:
        return image.decode(scale)[0]


class EncodedImage:
    """An image whose header was read: what it is, and its pixels when asked for."""

    def __init__(self, body: bytes, name: str, image: Image.Image) -> None:
        self._body, self._name, self._image = body, name, image
        # A TIFF turns itself while it is loaded.
        self._turn = 1 if isinstance(image, TiffImagePlugin.TiffImageFile) else _orientation(image)
        width, height = image.size if self._turn < 5 else image.size[::-1]
        self.info = ImageInfo(str(image.format), width, height)

    def decode(self, scale: float = 1.0) -> tuple[RGB, int]:
        """The pixels as `decode` gives them, and how many pixels of the original one of them
        stands for, in each direction: 1, 2, 4 or 8. To be called once. Raises Dropped."""
        divisor = 1
        if self._image.format in ("JPEG", "MPO"):
            if jpeg_markers.too_many_scans(self._body):
                raise Dropped(Stage.DECODE, Reason.CORRUPT, "too many scans")
            smallest = next(d for d in (8, 4, 2, 1) if scale <= 1 / d or d == 1)
            if smallest > 1 and not jpeg_markers.may_be_lossless(self._body):
                divisor = smallest
        with _typed_failures(self._body, self._name):
            rgb = _decode_plain_jpeg(self._body, self._image, divisor)
            if rgb is None:
                rgb = self._decode_by_pillow(divisor)
            return _TURN[self._turn](rgb), divisor

    def _decode_by_pillow(self, divisor: int) -> RGB:
        image = self._image
        if divisor > 1:
            image.draft(None, (max(1, image.width // divisor), max(1, image.height // divisor)))
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff(image, self._body)
        image.load()
        return _to_rgb(image)


@contextmanager
def opened(body: bytes, options: DecodeOptions) -> Iterator[EncodedImage]:
    """The image, opened but not decoded, within the pixel limit. Raises Dropped."""
    name = sniff(body)
    with ExitStack() as stack:
        with _typed_failures(body, name):
            image = stack.enter_context(Image.open(io.BytesIO(body), formats=[name]))
            if image.width * image.height > options.max_pixels:
                size = f"{image.width} x {image.height}"
                raise Dropped(Stage.DECODE, Reason.TOO_MANY_PIXELS, size)
            encoded = EncodedImage(body, name, image)
        yield encoded


@contextmanager
def _typed_failures(body: bytes, name: str) -> Iterator[None]:
    """What Pillow raises on bad data inside the block becomes a Dropped."""
    try:
        yield
    except Image.DecompressionBombError:
        raise Dropped(Stage.DECODE, Reason.TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        raise _unreadable(body, name, f"{name} header") from None
    except _BAD_DATA as error:
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise _unreadable(body, name, f"{name}: {type(error).__name__}", cut) from None


def _decode_plain_jpeg(body: bytes, image: Image.Image, divisor: int) -> RGB | None:
    """The pixels of a flawless gray or RGB JPEG at 1/`divisor`, not turned: the same that Pillow
    gives (both are libjpeg-turbo), without its copies. None where Pillow has to judge."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(body)
        if (width, height) != image.size:
            return None
        rgb = simplejpeg.decode_jpeg(
            body, "RGB", min_height=-(-height // divisor), min_width=-(-width // divisor)
        )
    except ValueError:  # also for every warning of libjpeg's
        return None
    return np.asarray(rgb, np.uint8)


_BAD_DATA = (
    OSError,  # what Pillow raises for broken or truncated data
    SyntaxError,  # and its plugins, for a broken structure
    ValueError,  # sizes and values out of range, oversized text chunks
    EOFError,
    IndexError,  # tables shorter than an index into them
    KeyError,  # TIFF: required tags missing, unknown modes
    ArithmeticError,  # AVIF: a timescale of 0; a value too large for the decoder's C types
    RuntimeError,  # AVIF: whatever libavif reports that has no class of its own
    struct.error,
    zlib.error,
)
"""What Pillow raises on bad data. Not AttributeError or TypeError: those mean broken code. Not
MemoryError: the header's size was checked, so the machine is short of memory, not the image bad."""


def _unreadable(body: bytes, name: str, detail: str, cut: bool = False) -> Dropped:
    """Why an image that its decoder refused is none; `cut` where the decoder said it ends early."""
    if name == "JPEG" and (kind := jpeg_markers.unsupported(body)):
        return Dropped(Stage.DECODE, Reason.UNSUPPORTED_FORMAT, kind)
    reason = Reason.TRUNCATED if cut or _cut_short(body, name) else Reason.CORRUPT
    return Dropped(Stage.DECODE, reason, detail)


def _check_tiff(image: TiffImagePlugin.TiffImageFile, body: bytes) -> None:
    """Refuse, as bad data, tags of types that Pillow trusts and would fail on with a TypeError,
    and tiles of gigabytes, which libtiff allocates for an image of any size.

    Raises ValueError.
    """
    width, height = (image.tag_v2.get(tag) for tag in _TILE_TAGS)
    if isinstance(width, int) and isinstance(height, int):
        if width * height > image.width * image.height + _TILE_PIXELS:
            raise ValueError("tiles far larger than the image")
        # Of two of a kind Pillow takes the last, libtiff the first.
        tags = _tiff_tags(body)
        if any(tags.count(tag) > 1 for tag in _TILE_TAGS):
            raise ValueError("two sizes of tiles")
    if not all(isinstance(tile.offset, int) for tile in image.tile):
        raise ValueError("strip offsets that are no integers")
    # Only looked at for an orientation, which EXIF gives; a number here is a TypeError there.
    image.info.pop("xmp", None)
    if _XMP_TAG in image.tag_v2:
        del image.tag_v2[_XMP_TAG]


def _tiff_tags(body: bytes) -> list[int]:
    """The tags of a TIFF's first directory, as they stand."""
    order: Literal["little", "big"] = "little" if body[:2] == b"II" else "big"
    big = int.from_bytes(body[2:4], order) == 43
    offset, count, entry = (slice(8, 16), 8, 20) if big else (slice(4, 8), 2, 12)
    at = int.from_bytes(body[offset], order)
    first = at + count
    end = min(first + entry * int.from_bytes(body[at:first], order), len(body))
    return [int.from_bytes(body[i : i + 2], order) for i in range(first, end, entry)]


def _cut_short(body: bytes, name: str) -> bool:
    """Whether the container itself says that bytes are missing (its decoder only says broken)."""
    if name == "WEBP":
        return int.from_bytes(body[4:8], "little") + 8 > len(body)
    if name == "BMP":
        return int.from_bytes(body[2:6], "little") > len(body)
    if name == "AVIF":
        return _boxes_cut_short(body)
    if name == "PNG":
        return b"IEND" not in body
    return False


def _boxes_cut_short(body: bytes) -> bool:
    """Whether a top-level ISO box ends behind the last byte."""
    at = 0
    while at + 8 <= len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        if length == 1:
            length = int.from_bytes(body[at + 8 : at + 16], "big")
        if length < 8:  # 0: to the end of the file; the rest is nonsense
            return False
        at += length
    return at != len(body)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. From the header's EXIF block only: Image.getexif() would
    decode a whole PNG to look behind its pixels, and take XMP for EXIF."""
    raw = image.info.get("exif")
    if not isinstance(raw, bytes):
        return 1
    exif = Image.Exif()
    try:
        exif.load(raw)
        value = exif.get(ExifTags.Base.Orientation)
    except _BAD_DATA:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


_TURN: dict[int, Callable[[RGB], RGB]] = {
    1: np.ascontiguousarray,
    2: lambda a: np.ascontiguousarray(a[:, ::-1]),
    3: lambda a: np.ascontiguousarray(a[::-1, ::-1]),
    4: lambda a: np.ascontiguousarray(a[::-1]),
    5: lambda a: np.ascontiguousarray(a.transpose(1, 0, 2)),
    6: lambda a: np.ascontiguousarray(a[::-1].transpose(1, 0, 2)),
    7: lambda a: np.ascontiguousarray(a[::-1, ::-1].transpose(1, 0, 2)),
    8: lambda a: np.ascontiguousarray(a[:, ::-1].transpose(1, 0, 2)),
}
"""What makes an image with this EXIF orientation upright."""


def _to_rgb(image: Image.Image) -> RGB:
    """A loaded image as uint8 RGB [h, w, 3], by the policy above; not yet turned."""
    if image.mode == "LAB":
        raise Dropped(Stage.DECODE, Reason.UNSUPPORTED_FORMAT, "Lab pixels")
    if image.mode == "F":
        # Of finite or infinite values: fmax passes over NaN.
        largest = max(np.fmax.reduce(np.asarray(part), axis=None) for _, part in _bands(image))
        top = 255.0 if largest > 1 else 1.0
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for rows, part in _bands(image):
        if image.mode == "F":
            values = np.nan_to_num(np.asarray(part), nan=0.0).clip(0, top)
            rgb[rows] = np.rint(values * (255 / top)).astype(np.uint8)[:, :, None]
        elif image.mode.startswith("I"):
            samples = np.asarray(part)
            grey = samples.clip(0, 65535) >> 8
            if isinstance(key := image.info.get("transparency"), int):
                grey[samples == key] = 255
            rgb[rows] = grey[:, :, None]
        else:
            if image.has_transparency_data:
                coloured = part.convert("RGBA")
                part = Image.alpha_composite(Image.new("RGBA", part.size, "white"), coloured)
            rgb[rows] = np.asarray(part.convert("RGB"))
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image from top to bottom in parts of about _BAND_PIXELS, each with its rows."""
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))
