import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.transforms.resize import shrink


@given(
    st.integers(1, 90), st.integers(1, 90), st.floats(0.01, 1), st.sampled_from([(), (3,)])
)  # fmt: skip
def test_the_size_is_about_what_was_asked_for_and_the_factors_say_exactly(w, h, scale, channels):
    small, factors = shrink(np.zeros((h, w, *channels), np.uint8), scale)
    assert small.shape[2:] == channels and small.dtype == np.uint8
    for side, length, factor in zip((w, h), small.shape[1::-1], factors, strict=True):
        # The halvings leave out less than one pixel of the result, the last step rounds by a half.
        assert abs(length - side * scale) <= 1.5 or length == 1
        assert side / 2 < length * factor < side + 1e-9  # what is left out is at the far border


def test_every_pixel_is_the_mean_of_those_it_covers():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (67, 93, 3), dtype=np.uint8)
    small, factors = shrink(image, 0.25)
    assert small.shape == (16, 23, 3) and factors == (4, 4)
    means = image[:64, :92].reshape(16, 4, 23, 4, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1  # rounded once per halving


@pytest.mark.parametrize("scale", [0.6, 0.3125, 0.2])
def test_a_ramp_keeps_its_place(scale):
    ramp = np.tile(np.arange(200, dtype=np.uint8), (50, 1))
    small, (x, _) = shrink(ramp, scale)
    centres = (np.arange(small.shape[1]) + 0.5) * x - 0.5
    assert np.abs(small[0] - centres).max() <= 1.5  # halves are rounded up, each time


def test_at_full_scale_nothing_is_copied():
    image = np.zeros((5, 7), np.uint8)
    assert shrink(image, 1.0)[0] is image
