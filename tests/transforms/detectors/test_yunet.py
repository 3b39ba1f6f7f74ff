import math

import numpy as np
import pytest

from facecap.transforms.detectors.yunet import decode


def outputs(width: int, height: int) -> list[np.ndarray]:
    """Twelve outputs of a canvas on which nothing is found."""
    cells = [(width // s) * (height // s) for s in (8, 16, 32)]
    return [np.zeros((n, k), np.float32) for k in (1, 1, 4, 10) for n in cells]


def test_decoding_by_hand():
    made = outputs(96, 64)
    cell = 3 * (96 // 16) + 2  # stride 16, row 3, column 2
    made[1][cell], made[4][cell] = 0.5, 1.5  # a score above 1 counts as 1
    made[7][cell] = [0.5, 0.25, math.log(3), math.log(2)]
    made[10][cell] = [0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1]
    found = decode(made, 96)
    assert found.boxes == pytest.approx(np.array([[40 - 24, 52 - 16, 40 + 24, 52 + 16]]))
    assert found.scores == pytest.approx([math.sqrt(0.5)])
    assert found.landmarks.tolist() == [[[32, 48], [48, 48], [40, 56], [32, 64], [48, 64]]]


@pytest.mark.parametrize(
    ("classes", "objects", "faces"), [(0.5, 0.5, 1), (0.3, 0.8, 0), (-1, -1, 0)]
)
def test_what_is_a_face(classes, objects, faces):
    made = outputs(64, 64)
    made[0][5], made[3][5] = classes, objects
    assert len(decode(made, 64)) == faces


def test_nothing_found():
    assert len(decode(outputs(64, 64), 64)) == 0


def test_a_box_without_end_does_not_overflow():
    made = outputs(64, 64)
    made[2][0] = made[5][0] = 1
    made[8][0] = 1e30
    assert np.isfinite(decode(made, 64).boxes[0, 2:] - decode(made, 64).boxes[0, :2]).all()
