"""Coverage-guided fuzzing by atheris: `make fuzz`, or

    python -m tests.fuzz.fuzz decode|headers [libFuzzer options and corpus folders]

The Python of facecap, Pillow, protego and yarl is instrumented. The decoders in C (libjpeg-turbo,
libpng, libtiff, libwebp, libavif) are not: they run and may crash, but their branches do not guide
the search. `decode -merge=1 tests/fuzz/corpus/decode FOUND` keeps what adds coverage.
"""

from __future__ import annotations

import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["PIL", "facecap.transforms", "protego", "yarl"]):
    from PIL import Image
    from tests.fuzz.checks import check_decode, check_headers

    Image.init()  # its plug-ins, too, which it would import one by one when first needed

TARGETS = {"decode": check_decode, "headers": check_headers}
PNG = b"\x89PNG\r\n\x1a\n"


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's mutation; a PNG's checksums are then set right, without which it ends there."""
    body = bytearray(atheris.Mutate(data, max_size))
    if body.startswith(PNG) and seed % 8:
        at = len(PNG)
        while at + 12 <= len(body):
            end = at + 8 + int.from_bytes(body[at : at + 4], "big")
            if end + 4 > len(body):
                break
            body[end : end + 4] = struct.pack(">I", zlib.crc32(body[at + 4 : end]))
            at = end + 4
    return bytes(body)


def main() -> None:
    target, *options = sys.argv[1:]
    check = TARGETS[target]
    command = f"{sys.executable} -m tests.fuzz.fuzz {target}"  # what -merge starts, by a shell
    more = {"custom_mutator": mutate} if target == "decode" else {}
    atheris.Setup([command, *options], lambda data: check(data) and None, **more)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
