"""Our detectors against their peers, on the same pixels (tests/oracles/record.py)."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from facecap.transforms.detectors import Detections, Detector
from tests.oracles.record import MIN_FACE, canvas, images, load
from tests.transforms.detectors.agreement import Agreement, compare
from tests.transforms.detectors.conftest import ASTRONAUT, load_detector

ORACLES = Path(__file__).parents[2] / "oracles"
RECORDS = {
    "mtcnn": "mtcnn.json",
    "scrfd-500m": "scrfd_500m.json",
    "scrfd-2.5g": "scrfd_2.5g.json",
    "yunet": "yunet.json",
}


def given(name: str, rgb: np.ndarray) -> np.ndarray:
    """What the peer was given: SCRFD's small export knows one size, filled up with black. (Where
    the black ends moves the scores of some faces by more than 0.01.)"""
    return canvas(rgb) if name.startswith("scrfd") else rgb


def recorded(name: str) -> dict[str, dict]:
    """What the peer found, by image name."""
    return json.loads((ORACLES / RECORDS[name]).read_text())


@pytest.fixture(params=RECORDS)
def detector(request) -> tuple[str, Detector]:
    return request.param, load_detector(request.param, MIN_FACE)


@pytest.fixture(scope="module")
def all_images(test_data) -> dict[str, np.ndarray]:
    return dict(images(test_data, ASTRONAUT))


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("mtcnn", 1),
        ("scrfd-500m", 1),
        ("scrfd-2.5g", 4),
        pytest.param("scrfd-2.5g", 1, marks=pytest.mark.long),
        ("yunet", 1),
    ],
)
def test_finds_what_its_peer_finds(all_images, name, step):
    record = recorded(name)
    assert list(record) == list(all_images)
    chosen = list(all_images.items())[::step]
    agreement = compare(load_detector(name, MIN_FACE), chosen, record, partial(given, name))
    print(f"{name}: {agreement}")
    assert agreement.faces > 200 // step
    assert agreement.alike >= 0.99 * agreement.faces
    assert agreement.extra <= 0.01 * agreement.faces


def test_finds_the_astronaut_as_its_peer_does(detector):
    name, ours = detector
    agreement = compare(
        ours, [("astronaut.png", load(ASTRONAUT))], recorded(name), partial(given, name)
    )
    assert (agreement.faces, agreement.alike, agreement.extra) == (1, 1, 0)


def test_detecting_depends_on_nothing_before_it(detector):
    _, ours = detector
    rgb = load(ASTRONAUT)
    first = ours.detect(rgb)
    ours.detect(np.ascontiguousarray(rgb[::-1, ::3]))
    again = ours.detect(rgb)
    assert np.array_equal(first.boxes, again.boxes) and np.array_equal(first.scores, again.scores)
    assert np.array_equal(first.landmarks, again.landmarks)


def test_other_faces_are_no_agreement():
    box, points = [10.0, 10, 50, 50], [[20.0, 20]] * 5
    expected = {"boxes": [box], "scores": [0.8], "landmarks": [points]}
    for boxes, scores, counts in (
        ([box], [0.805], (1, 1, 0)),
        ([box], [0.82], (1, 0, 1)),
        ([[14, 10, 54, 50]], [0.8], (1, 0, 1)),
        ([box, [60, 60, 90, 90]], [0.8, 0.6], (1, 1, 1)),
        (np.zeros((0, 4)), [], (1, 0, 0)),
    ):
        found = Detections(np.array(boxes), np.array(scores), np.array([points] * len(scores)))
        agreement = Agreement()
        agreement.add(found, expected)
        assert (agreement.faces, agreement.alike, agreement.extra) == counts
