"""Many images in one call, the way of an accelerator, on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms.detectors import Detector, one_pass
from facecap.transforms.detectors.detections import Detections
from facecap.transforms.detectors.one_pass import CALLS, CORE, MARGIN
from facecap.transforms.detectors.scrfd import Scrfd
from tests.oracles.record import load as load_image
from tests.transforms.detectors.conftest import ASTRONAUT
from tests.transforms.detectors.test_one_pass import FILES


def test_the_calls_of_an_accelerator_hold_every_tile():
    sides = [side for side, _ in CALLS["cuda"]]
    assert sides == sorted(sides) and sides[-1] == CORE + 2 * MARGIN
    assert all(side % 32 == 0 for side in sides)


def in_calls(monkeypatch, calls, detector: type[Detector], path: Path) -> Detector:
    """The detector as an accelerator runs it, with these calls."""
    monkeypatch.setitem(CALLS, "cpu", calls)
    return detector(path, "cpu", 16)


def same(one: Detections, other: Detections) -> bool:
    """Whether all figures are equal to the last bit."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("boxes", "scores", "landmarks")
    )


ALONE, TOGETHER = ((128, 1), (256, 1), (512, 1)), ((128, 5), (256, 3), (512, 2))


@pytest.fixture(scope="module")
def pieces() -> list[np.ndarray]:
    """Parts of a photograph that hold a face, a part of one or none, in sizes of all calls."""
    rgb = load_image(ASTRONAUT)
    cuts = [(0, 256, 96, 352), (0, 128, 160, 288), (300, 400, 0, 100), (0, 250, 90, 300),
            (30, 200, 150, 260), (0, 512, 0, 512), (40, 160, 170, 280), (0, 200, 0, 512),
            (100, 101, 0, 3), (20, 300, 100, 330)]  # fmt: skip
    return [np.ascontiguousarray(rgb[a:b, c:d]) for a, b, c, d in cuts]


@pytest.mark.parametrize("file", FILES)
def test_what_is_found_in_an_image_does_not_depend_on_its_batch(
    test_models, file, monkeypatch, pieces
):
    kind, path = FILES[file][0], test_models / file
    alone = in_calls(monkeypatch, ALONE, kind, path)
    together = in_calls(monkeypatch, TOGETHER, kind, path)
    expected = [alone.detect(rgb) for rgb in pieces]
    assert [len(found) > 0 for found in expected].count(True) >= 6
    assert all(map(same, together.detect_many(pieces), expected))
    assert together.detect_many([]) == []

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(0, len(pieces) - 1), min_size=1, max_size=12))
    def any_batch(chosen: list[int]) -> None:
        found = together.detect_many([pieces[i] for i in chosen])
        assert all(same(one, expected[i]) for one, i in zip(found, chosen, strict=True))

    any_batch()


@pytest.mark.parametrize("file", FILES)
def test_square_canvases_change_scores_a_little(test_models, file, monkeypatch, pieces):
    """Where the black ends moves scores by some hundredths: docs/decisions.md."""
    kind, path = FILES[file][0], test_models / file
    tight, square = kind(path, "cpu", 16), in_calls(monkeypatch, TOGETHER, kind, path)
    for rgb, theirs in zip(pieces, square.detect_many(pieces), strict=True):
        ours = tight.detect(rgb)
        for box, score in zip(ours.boxes, ours.scores, strict=True):
            if score > 0.7:
                i = np.abs(theirs.boxes - box).sum(axis=1).argmin()
                assert theirs.scores[i] == pytest.approx(score, abs=0.05)
                assert theirs.boxes[i] == pytest.approx(box, abs=0.05 * float(box[3] - box[1]))


@pytest.mark.parametrize("file", FILES)
def test_tiles_of_many_images_share_calls(test_models, file, monkeypatch):
    monkeypatch.setattr(one_pass, "CORE", 256)
    monkeypatch.setattr(one_pass, "MARGIN", 128)
    together = in_calls(monkeypatch, TOGETHER, FILES[file][0], test_models / file)
    alone = in_calls(monkeypatch, ALONE, FILES[file][0], test_models / file)
    rgb = load_image(ASTRONAUT)
    images = [np.tile(rgb, (2, 2, 1)), rgb, np.tile(rgb, (1, 2, 1))]
    found = together.detect_many(images)
    assert [len(one) for one in found] == [4, 1, 2]
    assert all(same(one, alone.detect(image)) for one, image in zip(found, images, strict=True))


def test_threads_share_a_detector(test_models, monkeypatch, pieces):
    """As the threads of a worker do: each has a canvas of its own."""
    together = in_calls(monkeypatch, TOGETHER, Scrfd, test_models / next(iter(FILES)))
    expected = together.detect_many(pieces)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(together.detect_many, [pieces] * 8):
            assert all(map(same, found, expected))
