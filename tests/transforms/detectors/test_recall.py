"""The detectors at the scale that the size filter picks (benchmarks/detector_recall.py, small)."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.detector_recall import (
    MIN_SIDE,
    Scaled,
    group_boxes,
    load,
    matched,
    photographs,
    recall,
    resized,
    shares,
)

from facecap.transforms.detectors import DETECTORS
from tests.transforms.detectors.conftest import FILES, load_detector

NAMES = ["mtcnn", *FILES]


def scaled(name: str, min_side: int) -> Scaled:
    detector = load_detector(name, max(1, round(min_side * Scaled.scale_of(name, min_side))))
    return Scaled(name, detector, min_side)


@pytest.mark.parametrize("name", NAMES)
def test_finds_the_group_photographs_faces_of_the_size_asked_for(name, test_data):
    detector = scaled(name, 40)
    count = 0
    for file, boxes in group_boxes(test_data):
        assert matched(boxes, detector.detect(load(file)).boxes, 0.4).all(), file.name
        count += len(boxes)
    assert count == 9


@pytest.mark.parametrize("name", NAMES)
def test_shrunk_images_give_the_faces_that_pass_the_filter(name, test_data):
    kind = DETECTORS[name]
    full = load_detector(name, max(20, kind.min_face))
    for zoom in (0.5, 1.0):
        files = [f for f in photographs(test_data)[::9] if load(f).size < 6_000_000]
        table = recall(scaled(name, MIN_SIDE), full, kind.min_score, files, zoom)
        faces, found = sum(table.faces.values()), sum(table.at_filter.values())
        print(name, zoom, faces, found, table.missed)
        assert faces > 5
        assert found >= 0.99 * faces


def test_matching_by_hand():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    assert matched(boxes, boxes[:1]).tolist() == [True, False]
    assert matched(boxes, boxes[:0]).tolist() == [False, False]
    assert matched(boxes[:0], boxes).tolist() == []
    assert shares(boxes, np.array([[0, 0, 5, 10]], np.float32)).tolist() == [0.5, 0]
    assert resized(np.zeros((10, 20, 3), np.uint8), 0.5).shape == (5, 10, 3)


def test_every_detector_is_measured():
    assert {"scrfd-10g", *NAMES} == set(DETECTORS)
    assert all(isinstance(path, str) and not Path(path).is_absolute() for path in FILES.values())
