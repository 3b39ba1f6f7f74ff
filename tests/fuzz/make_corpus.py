"""Writes the seed corpus, made from our own pictures: python -m tests.fuzz.make_corpus FOLDER

What is kept beside this file is this, minimised (`-merge=1`), and the inputs that once failed.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from tests.pictures import (
    adobe,
    bmp,
    bmp_rows,
    cmyk,
    encoded,
    grey,
    interlaced_png,
    png,
    scene,
    tiff,
    with_segments,
    ycck_jpeg,
)  # fmt: skip

ZOO = Path(__file__).parent.parent / "transforms" / "zoo"

HEADERS = (
    "120", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 99999 07:28:00 -9999",
    "noai, facecap: noindex",
    "unavailable_after: 25 Jun 2010 15:00:00 PST, otherbot: noimageai", "1", '"1";x=y, 0',
    "http://example.com/a.jpg?x=%20#y", "//example.com/b", "../c d/ü.png", "file:///etc/passwd",
    "http://[::1]:80/", "http://[fe80::1%25eth0]/", "http://0x7f.1/", "http://user:pass@host:8080/",
    "https://bücher.example/", "http://xn--bcher-kva.example./", "data:image/png;base64,AAAA",
    "http://169.254.169.254/latest", "http://a%2eb/%zz",
    "User-agent: *\nDisallow: /\n",
    "User-agent: facecap\nAllow: /a*b$\nDisallow: /a\nCrawl-delay: 5\n",
    "\ufeffUser-agent: facecap\nUser-agent: *\nDisallow: /*?*=*&\nSitemap: http://x/y\n",
)  # fmt: skip


def pictures() -> list[bytes]:
    """A small one of every kind that is decoded, and the zoo's."""
    rgb, levels = scene(24, 16), grey(24, 16)
    alpha = np.full(levels.shape, 128, np.uint8)
    picture = Image.fromarray(rgb)
    palette = picture.quantize(16)
    exif = Image.Exif()
    exif[0x112] = 6
    inks = Image.fromarray(cmyk(rgb), "CMYK")
    moving = {"save_all": True, "append_images": [Image.new("RGB", (24, 16))], "duration": 50}
    made = [
        encoded(rgb, "JPEG", exif=exif), encoded(rgb, "JPEG", progressive=True),
        encoded(levels, "JPEG"), encoded(inks, "JPEG"), ycck_jpeg(rgb),
        with_segments(encoded(rgb, "JPEG", keep_rgb=True), {0xEE}, adobe(0)),
        encoded(rgb, "JPEG", subsampling=1, restart_marker_blocks=1, comment=b"c", dpi=(72, 72)),
        encoded(rgb, "MPO", save_all=True, append_images=[picture]),
        encoded(rgb, "PNG", exif=exif), encoded(np.dstack([rgb, alpha]), "PNG"),
        encoded(Image.fromarray(np.dstack([levels, alpha]), "LA"), "PNG"),
        encoded(palette, "PNG", transparency=bytes(range(16))), encoded(levels > 128, "PNG"),
        encoded(levels.astype(np.uint16) * 257, "PNG", transparency=0), interlaced_png(rgb),
        encoded(picture, "PNG", **moving), encoded(palette, "GIF", **moving),
        encoded(palette, "GIF", transparency=1, interlace=1, comment=b"c"),
        encoded(rgb, "WEBP", exif=exif), encoded(np.dstack([rgb, alpha]), "WEBP"),
        encoded(np.dstack([rgb, alpha]), "WEBP", lossless=True), encoded(picture, "WEBP", **moving),
        encoded(rgb, "AVIF", exif=exif), encoded(np.dstack([rgb, alpha]), "AVIF"),
        encoded(picture, "AVIF", **moving), encoded(levels, "AVIF"),
        encoded(rgb, "TIFF", exif=exif), encoded(rgb, "TIFF", big_tiff=True),
        encoded(inks, "TIFF", compression="packbits"), encoded(palette, "TIFF"),
        encoded(levels > 128, "TIFF", compression="group4"),
        encoded(levels > 128, "TIFF", compression="group3"),
        encoded(levels.astype(np.uint16) * 257, "TIFF", compression="tiff_lzw"),
        encoded(levels.astype(np.float32), "TIFF", compression="tiff_adobe_deflate"),
        encoded(levels.astype(np.int32), "TIFF"), encoded(rgb, "TIFF", compression="jpeg"),
        encoded(picture, "TIFF", save_all=True, append_images=[picture]),
        encoded(rgb, "BMP"), encoded(palette, "BMP"), encoded(levels > 128, "BMP"),
        bmp((24, 16), 24, bmp_rows(rgb), header=12),
        bmp((24, 16), 16, bmp_rows(rgb[..., 0].astype("<u2") * 100), compression=3,
            masks=(0xF800, 0x7E0, 0x1F)),
        bmp((24, 16), 32, bmp_rows(np.dstack([rgb, alpha])), compression=3, header=124,
            masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        bmp((24, 2), 8, b"\x18\x01\x00\x00\x00\x02\x01\x02\x16\x05\x00\x01", compression=1,
            palette=bytes(range(200)) * 2),
        tiff((24, 16), 1, bytes(1024), (322, 32), (323, 32)),
        tiff((24, 16), 8, zlib.compress(bytes(1024)), (322, 32), (323, 32)),
        tiff((24, 16), 8, b"", (322, 20_000), (323, 20_000)),
        tiff((24, 16), 5, bytes(99), (322, 32), (322, 16), (323, 32)),
        encoded(Image.new("LAB", (4, 4)), "TIFF"), png((60_000, 60_000), 8, 2, b""),
        encoded(levels, "JPEG").replace(b"\xff\xda", b"\xff\xda\x00\x02" * 501 + b"\xff\xda"),
    ]  # fmt: skip
    return made + [file.read_bytes() for file in sorted(ZOO.glob("*.*")) if file.suffix != ".py"]


def write(folder: Path, bodies: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for body in bodies:
        (folder / hashlib.sha256(body).hexdigest()[:16]).write_bytes(body)


def main(folder: Path) -> None:
    write(folder / "decode", pictures())
    write(folder / "headers", [text.encode() for text in HEADERS])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
