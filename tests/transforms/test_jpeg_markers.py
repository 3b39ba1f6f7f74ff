import time

import pytest

from facecap.transforms.jpeg_markers import may_be_lossless, too_many_scans, unsupported
from tests.pictures import encoded, scene

JPEG = encoded(scene(), "JPEG")
SCAN = b"\xff\xda\x00\x02"


def test_an_ordinary_jpeg_has_nothing_to_say():
    for body in (JPEG, encoded(scene(), "JPEG", progressive=True)):
        assert unsupported(body) is None
        assert not too_many_scans(body) and not may_be_lossless(body)


FRAME = JPEG.index(b"\xff\xc0")


@pytest.mark.parametrize(
    ("at", "new", "kind"),
    [(4, b"\x0c", "JPEG of 12-bit samples"), (9, b"\x02", "JPEG of 2 components"),
     (1, b"\xc5", "hierarchical JPEG"), (1, b"\xc1", None)],
)  # fmt: skip
def test_the_frame_header_names_what_is_not_decoded(at, new, kind):
    at += FRAME
    assert unsupported(JPEG[:at] + new + JPEG[at + 1 :]) == kind


def test_garbage_between_segments_ends_the_search_for_a_frame():
    assert unsupported(b"\xff\xd8??" + JPEG[2:].replace(b"\xff\xc0", b"\xff\xc5")) is None
    assert unsupported(b"\xff\xd8") is None and unsupported(b"") is None


def test_scans_are_counted_to_the_end_of_the_image():
    start = JPEG[: JPEG.index(b"\xff\xda")]
    assert not too_many_scans(start + SCAN * 500)
    assert too_many_scans(start + SCAN * 501)
    assert too_many_scans(start + (SCAN + b"pixels\xff\x00\xff\xd0") * 501)
    assert not too_many_scans(start + SCAN + b"\xff\xd9" + SCAN * 501)
    assert not too_many_scans(start + b"\xff\xe1\x08\x02" + SCAN * 512 + SCAN)


def test_a_lossless_frame_is_seen_anywhere():
    assert may_be_lossless(JPEG.replace(b"\xff\xc0", b"\xff\xc3"))


def test_a_long_run_of_fill_bytes_takes_linear_time():
    """Quadratic, this one takes hours."""
    comment = b"\xff\xfe" + (2 + 2 * 601).to_bytes(2, "big") + b"\xff\xda" * 601
    body = JPEG[:2] + comment + JPEG[2:-2] + b"\xff" * 2_000_000 + b"\x00\x00\xff\xd9"
    started = time.process_time()
    assert not too_many_scans(body) and unsupported(body) is None
    assert unsupported(b"\xff\xd8" + b"\xff" * 2_000_000 + b"\x00") is None
    assert time.process_time() - started < 5
