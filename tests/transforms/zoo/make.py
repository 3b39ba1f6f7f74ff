"""Makes the files beside this script, which Pillow cannot write, from our own picture.

    python -m tests.transforms.zoo.make

Needs cjpeg of libjpeg-turbo 2 or later (Debian: libjpeg-turbo-progs) and, from PyPI, imagecodecs
and pillow-heif. The tests read the files and need none of these.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image
from tests.pictures import encoded, grey, scene, segments

FOLDER = Path(__file__).parent


def cjpeg(*options: str, image: np.ndarray | None = None) -> bytes:
    source = encoded(scene() if image is None else image, "PPM")
    command = ["cjpeg", "-quality", "92", *options]
    return subprocess.run(command, input=source, capture_output=True, check=True).stdout


def two_components() -> bytes:
    """A JPEG of Y and Cb: one of three scans, its third component and scan taken away."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as script:
        script.write("0; 1; 2;")
        script.flush()
        body = cjpeg("-sample", "1x1", "-scans", script.name)
    parts = dict(segments(body))
    frame = parts[0xC0]
    shorter = (
        b"\xff\xc0" + (len(frame) - 5).to_bytes(2, "big") + frame[4:9] + b"\x02" + frame[10:16]
    )
    third = body.rindex(b"\xff\xda")
    return body[:third].replace(frame, shorter) + b"\xff\xd9"


def main() -> None:
    rgb = scene()
    files = {
        "arithmetic.jpg": cjpeg("-arithmetic", "-sample", "1x1"),
        "arithmetic_progressive.jpg": cjpeg("-arithmetic", "-progressive"),
        "arithmetic_grey.jpg": cjpeg("-arithmetic", image=grey()),
        "411.jpg": cjpeg("-sample", "4x1"),
        "440.jpg": cjpeg("-sample", "1x2"),
        "410.jpg": cjpeg("-sample", "4x2"),
        "restart.jpg": cjpeg("-restart", "1B", "-sample", "2x2"),
        "rgb.jpg": cjpeg("-rgb"),
        "two_components.jpg": two_components(),
        "12_bit.jpg": imagecodecs.jpeg8_encode(rgb.astype(np.uint16) << 4, 92, bitspersample=12),
        "lossless.jpg": imagecodecs.jpeg8_encode(rgb, lossless=True),
        "lossless_16_bit.jpg": imagecodecs.ljpeg_encode(grey().astype(np.uint16) << 8),
        "picture.jp2": imagecodecs.jpeg2k_encode(rgb, 40),
        "picture.j2k": imagecodecs.jpeg2k_encode(rgb, 40, codecformat="j2k"),
        "picture.jxl": imagecodecs.jpegxl_encode(rgb, 80),
        "picture.jxr": imagecodecs.jpegxr_encode(rgb, 80),
        "picture.qoi": imagecodecs.qoi_encode(rgb),
    }
    for name, body in files.items():
        (FOLDER / name).write_bytes(body)
    pillow_heif.from_pillow(Image.fromarray(rgb)).save(FOLDER / "picture.heic", quality=80)


if __name__ == "__main__":
    main()
