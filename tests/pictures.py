"""Pictures whose pixels are known, and the files that hold them: nothing comes from elsewhere."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

RGB = npt.NDArray[np.uint8]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def scene(width: int = 67, height: int = 45) -> RGB:
    """The known picture: smooth, so that JPEG and coarse chroma keep it; different in each of the
    eight orientations and in each channel; no side a multiple of a block's."""
    y, x = np.mgrid[:height, :width]
    x, y = (x + 0.5) / width, (y + 0.5) / height
    channels = (30 + 190 * x, 40 + 170 * y * y, 230 - 100 * x - 80 * y)
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def grey(width: int = 67, height: int = 45) -> npt.NDArray[np.uint8]:
    """The known picture in grey [h, w]: the red channel's ramp, bent by rows."""
    return (scene(width, height)[..., 0] // 2 + scene(width, height)[..., 1] // 2).astype(np.uint8)


def reduced(rgb: RGB, divisor: int) -> RGB:
    """The mean of each block of `divisor` x `divisor` pixels, edges repeated: what decoding at a
    reduced scale means."""
    h, w = (-(-side // divisor) for side in rgb.shape[:2])
    padding = ((0, h * divisor - rgb.shape[0]), (0, w * divisor - rgb.shape[1]), (0, 0))
    blocks = np.pad(rgb, padding, mode="edge").reshape(h, divisor, w, divisor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def mean_error(rgb: RGB, truth: RGB) -> float:
    """Mean absolute difference per sample, infinite where the shapes differ."""
    if rgb.shape != truth.shape:
        return float("inf")
    return float(np.abs(rgb.astype(int) - truth).mean())


def encoded(image: Image.Image | npt.NDArray, kind: str, **options) -> bytes:
    """The image as a file of Pillow's making."""
    file = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def quadrants(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green / blue, white; wider than high."""
    image = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    image[:] = WHITE
    image[top] = GREEN
    image[:, left] = BLUE
    image[top, left] = RED
    return Image.fromarray(image)


def corners(rgb: RGB) -> list[tuple[int, ...]]:
    """The colours of the four quadrants, every channel rounded to 0 or 255."""
    h, w = rgb.shape[:2]
    points = [(y, x) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]
    return [tuple(int(v > 127) * 255 for v in rgb[point]) for point in points]


def photo(width: int = 104, height: int = 80) -> Image.Image:
    """Noise, blown up: compresses as a photograph does."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height))


# PNG


def chunk(name: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def png(
    size: tuple[int, int], depth: int, colour: int, pixels: bytes, *, more: bytes = b"",
    interlaced: bool = False,
) -> bytes:  # fmt: skip
    """A PNG of this size, bit depth and colour type; `pixels` are the filtered, compressed rows,
    `more` chunks stand before them."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more
        + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )  # fmt: skip


def rows(samples: npt.NDArray) -> bytes:
    """Unfiltered PNG rows of samples [h, w] or [h, w, c], 8 or 16 bits."""
    return b"".join(b"\x00" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in samples)


def interlaced_png(rgb: RGB) -> bytes:
    """Adam7: the seven passes of the PNG specification, 8.2."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2),
              (1, 2, 0, 1))  # fmt: skip
    data = b"".join(rows(part) for y, dy, x, dx in passes if (part := rgb[y::dy, x::dx]).size)
    return png(rgb.shape[1::-1], 8, 2, zlib.compress(data), interlaced=True)


def inflating(gigabytes: int) -> bytes:
    """A zlib stream of about 1 MB a gigabyte, all zeros."""
    coder = zlib.compressobj(9)
    head = coder.compress(bytes(1 << 20)) + coder.flush(zlib.Z_FULL_FLUSH)
    block = coder.compress(bytes(1 << 20)) + coder.flush(zlib.Z_FULL_FLUSH)
    return head + block * (1024 * gigabytes - 1) + coder.flush()


# JPEG


def segments(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes (marker and length with it) of each segment; last, with marker 0, what
    follows the first scan's header."""
    at = 2
    while True:
        marker, length = body[at + 1], int.from_bytes(body[at + 2 : at + 4], "big")
        yield marker, body[at : at + 2 + length]
        at += 2 + length
        if marker == 0xDA:
            yield 0, body[at:]
            return


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def with_segments(body: bytes, drop: set[int], first: bytes = b"") -> bytes:
    """A JPEG without the segments of these markers, and with others at its start."""
    kept = b"".join(part for marker, part in segments(body) if marker not in drop)
    return b"\xff\xd8" + first + kept


def adobe(transform: int) -> bytes:
    """The APP14 segment that says how a JPEG's components are to be taken."""
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def cmyk(rgb: RGB) -> npt.NDArray[np.uint8]:
    """Inks [h, w, 4] that make these colours, black taken out of the others."""
    ink = 255.0 - rgb
    key = ink.min(axis=-1, keepdims=True) * 0.6
    inks = 255 * (ink - key) / (255 - key)
    return np.rint(np.concatenate([inks, key], axis=-1)).astype(np.uint8)


def ycck_jpeg(rgb: RGB) -> bytes:
    """Adobe's YCCK, from its definition: JFIF's YCbCr of the inks and inverted black. Pillow writes
    the four channels as they are (inverted, hence 255 -); the Adobe marker then says YCCK."""
    inks = cmyk(rgb)
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    channels = np.dstack([255 - ycc, inks[..., 3]])
    body = encoded(Image.fromarray(channels, "CMYK"), "JPEG", quality=97)
    return with_segments(body, {0xEE}, adobe(2))


# BMP


def bmp(
    size: tuple[int, int], bits: int, pixels: bytes, *, compression: int = 0, header: int = 40,
    masks: tuple[int, ...] = (), palette: bytes = b"",
) -> bytes:  # fmt: skip
    """A BMP; `pixels` from the bottom row up (from the top where the height is negative), rows
    padded to 4 bytes."""
    width, height = size
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        colours = len(palette) // 4
        info = struct.pack(
            "<IiiHHIIiiII", header, width, height, 1, bits, compression, len(pixels), 0, 0,
            colours, 0,
        )  # fmt: skip
        info += struct.pack(f"<{len(masks)}I", *masks)
        info += bytes(max(0, header - len(info)))
    start = 14 + len(info) + len(palette)
    file = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return file + info + palette + pixels


def bmp_rows(rows: npt.NDArray, *, top_down: bool = False) -> bytes:
    """Rows of bytes or larger samples, padded to 4 bytes."""
    ordered = rows if top_down else rows[::-1]
    return b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in ordered)


# TIFF


def tiff(size: tuple[int, int], compression: int, data: bytes, *more: tuple[int, int]) -> bytes:
    """A grey 8-bit TIFF of one strip, or of one tile where tag 322 is among `more`."""
    tiled = any(tag == 322 for tag, _ in more)
    tags = [(256, size[0]), (257, size[1]), (258, 8), (259, compression), (262, 1), (277, 1), *more]
    tags += [(325, len(data))] if tiled else [(278, size[1]), (279, len(data))]
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags = sorted([*tags, (324 if tiled else 273, start)], key=lambda tag: tag[0])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data
