import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.schemas.sample import Face
from facecap.transforms import align
from facecap.transforms.align import ARCFACE_TEMPLATE, Alignment, arcface, similarity

CHIP = arcface(112)


def face(landmarks, box=(0.0, 0.0, 200.0, 200.0)) -> Face:
    return Face(0, box, 0.99, tuple(map(tuple, landmarks)))


def turned(points, angle: float, scale: float, shift: complex) -> np.ndarray:
    z = np.asarray(points) @ (1, 1j) * scale * np.exp(1j * angle) + shift
    return np.stack([z.real, z.imag], axis=1)


@given(
    st.floats(-math.pi, math.pi),
    st.floats(0.2, 20),
    st.complex_numbers(max_magnitude=3000, allow_nan=False),
)
def test_a_similarity_is_recovered(angle: float, scale: float, shift: complex) -> None:
    landmarks = turned(ARCFACE_TEMPLATE, angle, scale, shift)
    matrix = similarity(landmarks, ARCFACE_TEMPLATE)
    assert matrix is not None
    found = landmarks @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(found, ARCFACE_TEMPLATE, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_equals_umeyama_of_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(0)
    for _ in range(50):
        landmarks = turned(ARCFACE_TEMPLATE, rng.normal(), 3, 100 + 50j) + rng.normal(0, 5, (5, 2))
        expected = transform.SimilarityTransform()
        expected.estimate(landmarks, np.array(ARCFACE_TEMPLATE))
        found = similarity(landmarks, ARCFACE_TEMPLATE)
        np.testing.assert_allclose(found, expected.params[:2], atol=1e-8)


def test_collinear_landmarks_determine_an_alignment() -> None:
    matrix = similarity([(10, 10), (30, 10), (20, 10), (12, 10), (28, 10)], ARCFACE_TEMPLATE)
    assert matrix is not None and np.isfinite(matrix).all()


@pytest.mark.parametrize(
    "landmarks",
    [
        [(50.0, 50.0)] * 5,
        [(50.0, 50.0), (50.1, 50.0), (50.0, 50.1), (50.0, 50.0), (50.1, 50.1)],
        [(math.nan, 50.0)] * 5,
        [(math.inf, 50.0), (1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0)],
    ],
)
def test_degenerate_landmarks_fall_back_to_the_box(landmarks) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    box = (40.0, 30.0, 240.0, 260.0)
    by_box = face(align.points_in_box(box), box)
    chip = align.align(rgb, face(landmarks, box), CHIP)
    np.testing.assert_array_equal(chip, align.align(rgb, by_box, CHIP))


@given(st.lists(st.tuples(*[st.floats(-1e5, 1e5)] * 2), min_size=5, max_size=5))
def test_no_landmarks_raise(landmarks) -> None:
    rgb = np.zeros((60, 80, 3), np.uint8)
    assert align.align(rgb, face(landmarks, (10, 10, 50, 50)), CHIP).shape == (112, 112, 3)


def test_landmarks_land_on_the_template() -> None:
    image = np.zeros((400, 500, 3), np.uint8)
    landmarks = turned(ARCFACE_TEMPLATE, 0.4, 2.0, 150 + 50j)
    for number, (x, y) in enumerate(landmarks):
        cv2.circle(image, (round(x), round(y)), 4, (255, 60 * number, 0), -1)
    chip = align.align(image, face(landmarks), CHIP)
    assert chip.dtype == np.uint8
    for number, (x, y) in enumerate(ARCFACE_TEMPLATE):
        r, g, b = chip[round(y), round(x)].astype(int)
        assert r > 200 and abs(g - 60 * number) < 40 and b == 0, number


def test_same_as_plain_warp_where_nothing_is_scaled_down() -> None:
    image = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)
    matrix = np.array([[1.5, 0.25, -20.0], [-0.25, 1.5, 10.0]])
    expected = cv2.warpAffine(image, matrix, (89, 109), borderMode=cv2.BORDER_REPLICATE)
    difference = expected.astype(int) - align.warp(image, matrix, (89, 109))
    assert abs(difference).max() <= 1


def test_a_large_face_does_not_alias() -> None:
    """Fine stripes that a chip cannot show become an even gray, not coarse false stripes."""
    stripes = np.zeros((1120, 1120, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = np.array([[0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    chip = align.warp(stripes, matrix, (112, 112))[5:-5, 5:-5]
    assert chip.std() < 3 and abs(chip.mean() - 127.5) < 3


def test_scaling_down_keeps_the_place() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    image[300:500, 600:800] = 255
    chip = align.warp(image, np.array([[0.1, 0.0, 0.0], [0.0, 0.1, 0.0]]), (100, 100))
    ys, xs = np.nonzero(chip[..., 0] > 127)
    assert abs(xs.mean() - 69.5) < 0.6 and abs(ys.mean() - 39.5) < 0.6


def test_border_pixels_are_repeated_outside() -> None:
    image = np.full((50, 50, 3), 200, np.uint8)
    matrix = np.array([[1.0, 0.0, 400.0], [0.0, 1.0, 0.0]])
    assert (align.warp(image, matrix, (112, 112)) == 200).all()
    assert align.chip_leaves_image(matrix, (112, 112), 50, 50)
    assert not align.chip_leaves_image(np.array([[1.0, 0, -5], [0, 1.0, -5]]), (30, 30), 50, 50)


def test_template_is_scaled_to_the_size() -> None:
    assert arcface(224) == Alignment(tuple((2 * x, 2 * y) for x, y in ARCFACE_TEMPLATE), 224, 224)
