import numpy as np
import pytest

from facecap.transforms.detectors.scrfd import decode


def outputs(width: int, height: int) -> list[np.ndarray]:
    """Nine outputs of a canvas on which nothing is found."""
    cells = [2 * (width // s) * (height // s) for s in (8, 16, 32)]
    return [np.zeros((n, k), np.float32) for k in (1, 4, 10) for n in cells]


def test_decoding_by_hand():
    made = outputs(96, 64)
    anchor = (3 * (96 // 16) + 2) * 2 + 1  # stride 16, row 3, column 2, second anchor
    made[1][anchor] = 0.8
    made[4][anchor] = [1, 0.5, 2, 1.5]
    made[7][anchor] = [0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1]
    found = decode(made, 96)
    assert found.boxes.tolist() == [[32 - 16, 48 - 8, 32 + 32, 48 + 24]]
    assert found.scores == pytest.approx([0.8])
    assert found.landmarks.tolist() == [[[32, 48], [48, 48], [40, 56], [32, 64], [48, 64]]]


def test_nothing_found():
    assert len(decode(outputs(64, 64), 64)) == 0
