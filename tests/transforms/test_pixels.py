import io
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from facecap.schemas.sample import Fetched, Sample
from facecap.transforms import pixels
from facecap.transforms.decode import DecodeOptions

OPTIONS = DecodeOptions()


def sample(value: int) -> Sample:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (value, value, value)).save(file, "PNG")
    return Sample(value, "http://h/", fetched=Fetched(200, file.getvalue(), "0" * 64))


def marked(value: int) -> np.ndarray:
    return np.full((30, 40, 3), value, np.uint8)


@pytest.fixture(autouse=True)
def nothing_kept():
    pixels.forget()
    yield
    pixels.forget()


def test_what_was_kept_is_had_without_decoding_until_it_is_forgotten():
    one = sample(1)
    kept = marked(99)
    pixels.keep(one, kept)
    assert pixels.full(replace(one, source_caption="later"), OPTIONS) is kept
    pixels.forget()
    assert (pixels.full(one, OPTIONS) == 1).all()


def test_another_sample_with_equal_bytes_is_another_sample():
    pixels.keep(sample(1), marked(99))
    assert (pixels.full(sample(1), OPTIONS) == 1).all()


def test_what_has_no_room_is_decoded_again(monkeypatch):
    monkeypatch.setattr(pixels, "BUDGET_BYTES", 2 * 30 * 40 * 3)
    pixels.forget()
    samples = [sample(i) for i in range(3)]
    for one in samples:
        pixels.keep(one, marked(99))
    assert [pixels.full(one, OPTIONS)[0, 0, 0] for one in samples] == [99, 99, 2]


def test_threads_share_nothing():
    one, seen = sample(1), []
    pixels.keep(one, marked(99))
    thread = threading.Thread(target=lambda: seen.append(pixels.full(one, OPTIONS)[0, 0, 0]))
    thread.start()
    thread.join()
    assert seen == [1]
