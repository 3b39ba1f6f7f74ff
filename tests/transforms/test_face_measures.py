import math

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from facecap.transforms import face_measures


def texture(side: int) -> np.ndarray:
    """A soft random texture, the same picture at any size."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def test_blur_lowers_sharpness() -> None:
    sharp = texture(256)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 6)
    assert face_measures.sharpness(blurred) < 0.3 * face_measures.sharpness(sharp)
    assert face_measures.sharpness(np.full((200, 150), 90, np.uint8)) == 0


def test_sharpness_compares_faces_of_different_sizes() -> None:
    values = [face_measures.sharpness(texture(side)) for side in (192, 384, 768)]
    assert max(values) < 1.2 * min(values)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    gray = np.random.default_rng(1).integers(0, 255, (128, 128), np.uint8)
    padded = np.pad(gray.astype(float), 1, mode="reflect")
    laplacian = (
        padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    ) - 4 * padded[1:-1, 1:-1]
    assert face_measures.sharpness(gray) == pytest.approx(laplacian.var())


def test_brightness_is_mean_luma_of_the_visible_box() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[:, 50:] = (255, 0, 0)
    gray = face_measures.gray_face(rgb, (50.0, -20.0, 130.0, 60.0))
    assert gray.shape == (60, 50)
    assert face_measures.brightness(gray) == pytest.approx(0.299 * 255, abs=0.6)


@pytest.mark.parametrize("degrees", [-170, -45, 0, 30, 90])
def test_roll_in_degrees(degrees: float) -> None:
    turn = math.radians(degrees)
    eyes = ((0.0, 0.0), (40 * math.cos(turn), 40 * math.sin(turn)))
    assert face_measures.roll((*eyes, (0, 0), (0, 0), (0, 0))) == pytest.approx(degrees)


def test_yaw_is_the_nose_along_the_line_of_the_eyes() -> None:
    mouth = ((45.0, 80.0), (75.0, 80.0))
    frontal = ((40.0, 40.0), (80.0, 40.0), (60.0, 60.0), *mouth)
    right = ((40.0, 40.0), (80.0, 40.0), (80.0, 60.0), *mouth)
    assert face_measures.yaw(frontal) == 0
    assert face_measures.yaw(right) == pytest.approx(0.5)
    turn = np.exp(0.7j)
    rolled = tuple(((complex(*p) * turn).real, (complex(*p) * turn).imag) for p in right)
    assert face_measures.yaw(rolled) == pytest.approx(0.5)
    assert math.isnan(face_measures.yaw(((1.0, 1.0), (1.0, 1.0), (2.0, 2.0), *mouth)))


def test_phash_is_imagehash() -> None:
    rgb = np.dstack([texture(200)] * 3)
    value = face_measures.phash(rgb)
    assert len(value) == 16
    assert imagehash.hex_to_hash(value) == imagehash.phash(Image.fromarray(rgb))


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ((10, 10, 20, 20), 1.0),
        ((-10, 0, 10, 20), 0.5),
        ((-10, -10, 10, 10), 0.25),
        ((200, 0, 300, 50), 0.0),
        ((5, 5, 5, 5), 0.0),
    ],
)
def test_inside(box, share: float) -> None:
    assert face_measures.inside(box, 100, 100) == pytest.approx(share)
