"""What the markers of a JPEG say (T.81, B.1), before a decoder is let near it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAX_SCANS = 500
"""Scans of a JPEG, as libjpeg-turbo's own tools advise. Each costs time as the whole image does,
but only a few bytes; an encoder's progressive JPEG has about ten."""

_NAME = rb"([^\x00\x01\xd0-\xd8\xff])"
_MARKER = re.compile(rb"\xff+" + _NAME, re.DOTALL)
"""A marker that a segment follows, or the end of the image; fill bytes may stand before it."""

_NEXT_MARKER = re.compile(rb"\xff" + _NAME, re.DOTALL)
"""To search for one: with the fill bytes in it a long run of 0xFF takes quadratic time."""

_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})


def may_be_lossless(body: bytes) -> bool:
    """Whether the frame marker of a lossless JPEG stands anywhere, metadata included.

    Libjpeg-turbo does not reduce the scale of one: asked to, through simplejpeg or Pillow, it
    writes past the end of their buffers and the process dies.
    """
    return b"\xff\xc3" in body


def too_many_scans(body: bytes) -> bool:
    """Whether a JPEG's first image has more than 500 scans."""
    if body.count(b"\xff\xda") <= _MAX_SCANS:  # at least the scans: what every photograph pays
        return False
    # Metadata and what follows the image (further images, a film) can hold these bytes, too.
    scans = 0
    for marker, _ in _segments(body, garbage=True):
        scans += marker == _SCAN
        if marker == _END or scans > _MAX_SCANS:
            break
    return scans > _MAX_SCANS


def unsupported(body: bytes) -> str | None:
    """The kind of a sound JPEG that Pillow does not decode, by its frame header (T.81, B.2.2)."""
    for marker, frame in _segments(body, garbage=False):
        if marker in (_SCAN, _END):
            return None
        if marker in _FRAMES and len(frame) == 8:
            if marker not in _DECODED_FRAMES:
                return "hierarchical JPEG"
            if frame[2] != 8:
                return f"JPEG of {frame[2]}-bit samples"
            return None if frame[7] in (1, 3, 4) else f"JPEG of {frame[7]} components"
    return None


def _segments(body: bytes, *, garbage: bool) -> Iterator[tuple[int, bytes]]:
    """Each marker with the first 8 bytes of its segment, two of length among them. To the first
    bytes that are no marker, or over `garbage`, as libjpeg does."""
    find = _NEXT_MARKER.search if garbage else _MARKER.match
    at = 2
    while marker := find(body, at):
        start = body[marker.end() : marker.end() + 8]
        yield marker[1][0], start
        at = marker.end() + int.from_bytes(start[:2], "big")
