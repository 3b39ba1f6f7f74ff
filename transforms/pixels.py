"""The decoded photographs of the batch at work, so that Crop and EncodeCrops need not decode again
what Detect has just decoded. Only a saving: pixels never travel with a sample, and where none are
kept (the batch went to another process, or there was no room) the image is decoded again to the
same."""

from __future__ import annotations

import threading

from facecap.schemas.sample import Fetched, Sample
from facecap.transforms.decode import RGB, DecodeOptions, decode

BUDGET_BYTES = 96 << 20
"""Kept at most per thread: 25 photographs of 1.3 megapixels, or two of 16."""


class _Kept(threading.local):
    """Per thread: the stages of the line run one after the other in the thread of the batch."""

    def __init__(self) -> None:
        self.pixels: dict[int, tuple[Fetched, RGB]] = {}
        self.room = BUDGET_BYTES


_kept = _Kept()


def forget() -> None:
    """Free what is kept: a new batch begins."""
    _kept.pixels.clear()
    _kept.room = BUDGET_BYTES


def keep(sample: Sample, rgb: RGB) -> None:
    """Keep the full-size upright pixels of `sample` for the later stages, if there is room."""
    assert sample.fetched is not None
    if rgb.nbytes <= _kept.room:
        _kept.pixels[id(sample.fetched)] = (sample.fetched, rgb)
        _kept.room -= rgb.nbytes


def full(sample: Sample, options: DecodeOptions) -> RGB:
    """The full-size upright image of a fetched sample: uint8 RGB [h, w, 3], not to be written to.

    Raises Dropped as `decode` does.
    """
    assert sample.fetched is not None and sample.fetched.body is not None
    fetched, rgb = _kept.pixels.get(id(sample.fetched), (None, None))
    if rgb is not None and fetched is sample.fetched:
        return rgb
    rgb = decode(sample.fetched.body, options)
    keep(sample, rgb)
    return rgb
