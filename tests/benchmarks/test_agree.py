import json
from pathlib import Path

import pytest
from benchmarks import agree
from benchmarks.agree import Detected

FACE = (100.0, 100.0, 300.0, 300.0)


def test_iou() -> None:
    assert agree.iou(FACE, FACE) == 1
    assert agree.iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert agree.iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_equal_faces_are_no_difference() -> None:
    shifted = (105.0, 103.0, 302.0, 299.0)
    mine = {"a.jpg": [Detected(FACE, 0.8, None)]}
    assert agree.differences(mine, {"a.jpg": [Detected(shifted, 0.7, None)]}) == []


def test_a_difference_says_what_the_other_one_saw() -> None:
    mine = {"a.jpg": [Detected(FACE, 0.8, None)], "b.jpg": []}
    theirs = {"a.jpg": [Detected(FACE, 0.6, "low_score")], "b.jpg": [Detected(FACE, 0.9, None)]}
    first, second = agree.differences(mine, theirs)
    assert (first.photograph, first.kept_by) == ("a.jpg", "facecap")
    assert first.reason == "low_score (200 px, score 0.60)"
    assert (second.photograph, second.kept_by) == ("b.jpg", "peers")
    assert second.reason == "not detected"


def test_faces_that_neither_keeps_are_no_difference() -> None:
    small = {"a.jpg": [Detected((0, 0, 50, 50), 0.9, "too_small")]}
    assert agree.differences(small, {"a.jpg": []}) == []


def test_the_peers_faces_get_our_limits_and_count_once_per_photograph(tmp_path: Path) -> None:
    photo = {
        "boxes": [FACE, (0, 0, 127, 300), (0, 0, 128, 128)],
        "scores": [0.9, 0.9, 0.6],
    }
    photos = [{"url": f"http://h/photos/a%20b.jpg?{i}", **photo} for i in range(2)]
    (tmp_path / "loop.json").write_text(json.dumps({"photos": photos}))
    faces = agree.peers([tmp_path / "loop.json"], 128, 0.65)
    assert [f.dropped for f in faces["photos/a b.jpg"]] == [None, "too_small", "low_score"]
    assert agree.kept(faces) == 1
