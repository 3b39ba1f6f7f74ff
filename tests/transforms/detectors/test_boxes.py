import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms.detectors import boxes
from facecap.transforms.detectors.boxes import nms


def make(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (n, 2))
    found = np.concatenate([corner, corner + rng.uniform(5, 40, (n, 2))], axis=1)
    return found.astype(np.float32), rng.uniform(0, 1, n).astype(np.float32)


def overlap(a, b, pixel: float, over: str) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + pixel)
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + pixel)
    size_a = (a[2] - a[0] + pixel) * (a[3] - a[1] + pixel)
    size_b = (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel)
    return w * h / (min(size_a, size_b) if over == "smaller" else size_a + size_b - w * h)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.sampled_from(["union", "smaller"]))
def test_what_is_kept(seed, n, over):
    found, scores = make(seed, n)
    kept = nms(found, scores, 0.5, pixel=1, over=over)
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    for i in range(n):
        suppressors = [
            j
            for j in kept
            if scores[j] > scores[i]
            and overlap(found[j].astype(float), found[i].astype(float), 1, over) > 0.5
        ]
        assert (i in kept) == (not suppressors)


def test_many_boxes_give_the_same_as_few(monkeypatch):
    found, scores = make(1, 300)
    expected = nms(found, scores, 0.4)
    monkeypatch.setattr(boxes, "_MATRIX_LIMIT", 10)
    assert np.array_equal(nms(found, scores, 0.4), expected)
    assert 10 < len(expected) < 300


@pytest.mark.parametrize("limit", [10, 1000])
def test_of_too_many_boxes_the_best_are_looked_at(monkeypatch, limit):
    found, scores = make(2, 300)
    best = np.argsort(-scores)[:100]
    expected = best[nms(found[best], scores[best], 0.4)]
    monkeypatch.setattr(boxes, "_MATRIX_LIMIT", limit)
    assert len(nms(found, scores, 0.4)) > len(expected)
    monkeypatch.setattr(boxes, "MAX_BOXES", 100)
    assert np.array_equal(nms(found, scores, 0.4), expected)


def test_ties_keep_the_first():
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    assert nms(found, np.ones(3, np.float32), 0.5).tolist() == [0, 2]


def test_boxes_without_area_suppress_nothing():
    found = np.array([[5, 5, 5, 5], [5, 5, 5, 5]], np.float32)
    assert len(nms(found, np.array([0.5, 0.6], np.float32), 0.5)) == 2
