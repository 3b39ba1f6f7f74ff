"""What must hold for any bytes: the bodies of the fuzz targets, run by atheris and by the tests."""

from __future__ import annotations

import math
import time

import numpy as np
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from facecap.schemas.outcomes import Stage
from facecap.transforms.decode import DecodeOptions, decode, probe, sniff
from facecap.transforms.jpeg_markers import may_be_lossless, too_many_scans
from facecap.transforms.railway import Dropped
from facecap.transforms.web.addresses import parse_url, redirect_target
from facecap.transforms.web.client import retry_after
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.optout import reservation
from facecap.transforms.web.robots import parse_rules

DECODE = DecodeOptions(max_pixels=1_000_000)
MAX_CPU_S = 5.0
"""For everything that is asked of one input: far above what a million pixels take."""


def check_decode(body: bytes) -> str:
    """The format, or the drop. Anything raised is a defect: an exception other than Dropped goes
    through, a broken promise is an AssertionError."""
    start = time.process_time()
    outcome = _decoded(body)
    took = time.process_time() - start
    assert took < MAX_CPU_S, f"{took:.1f} s of CPU"
    return outcome


def _decoded(body: bytes) -> str:
    many_scans = too_many_scans(body)
    try:
        name = sniff(body)
        info = probe(body, DECODE)
    except Dropped as dropped:
        try:
            decode(body, DECODE)
        except Dropped as again:
            assert again.drop == dropped.drop, "probe and decode disagree"
            return _drop(dropped)
        raise AssertionError("decode takes what probe drops") from None
    assert info.width * info.height <= DECODE.max_pixels
    outcome = name
    for divisor in (1, 2, 8) if name == "JPEG" else (1,):
        try:
            rgb = decode(body, DECODE, scale=1 / divisor)
        except Dropped as dropped:
            outcome = _drop(dropped)
            continue
        assert not (name == "JPEG" and many_scans), "too many scans were decoded"
        assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous, (rgb.dtype, rgb.strides)
        reduced = 1 if may_be_lossless(body) else divisor  # a lossless JPEG is never reduced
        assert rgb.shape == (-(-info.height // reduced), -(-info.width // reduced), 3), rgb.shape
        int(rgb.sum())  # every byte can be read
    return outcome


def _drop(dropped: Dropped) -> str:
    assert dropped.drop.stage is Stage.DECODE
    assert len(str(dropped)) < 200 and "\n" not in str(dropped)
    return str(dropped.drop.reason)


BASE = URL("https://example.com/a/b?c=d")


def check_headers(data: bytes) -> str:
    """The same for what a server's headers, its robots.txt and a list of URLs can hold."""
    start = time.process_time()
    text = data.decode("utf-8", "surrogateescape")  # as aiohttp gives a header's value
    seconds = retry_after(text)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
    headers = CIMultiDict([("X-Robots-Tag", text), ("TDM-Reservation", text)])
    reserved = reservation(CIMultiDictProxy(headers), "facecap")
    assert reserved is None or len(reserved) < 100
    outcome = "target"
    try:
        _requestable(redirect_target(BASE, text))
    except Failed:
        outcome = "no target"
    try:
        url = parse_url(text)
    except Failed:
        url = BASE
    else:
        _requestable(url)
        outcome += ", url"
    try:
        allowed = parse_rules(data, "facecap").allow(str(url))
    except Failed:
        return outcome + ", no rules"
    took = time.process_time() - start
    assert took < MAX_CPU_S, f"{took:.1f} s of CPU"
    return f"{outcome}, {'allowed' if allowed else 'forbidden'}"


def _requestable(url: URL) -> None:
    assert url.scheme in ("http", "https") and url.raw_host and url.port
    assert "@" not in url.raw_authority and not url.raw_fragment
    assert str(parse_url(str(url))) == str(url), "another address the second time"
