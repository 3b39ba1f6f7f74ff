"""Compares a detector with what its peer found on the same pixels."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from facecap.transforms.detectors import Detections, Detector


@dataclass
class Agreement:
    """Counts of the peer's faces, those of them found alike, and faces only we found."""

    faces: int = 0
    alike: int = 0
    extra: int = 0

    def add(self, found: Detections, expected: dict) -> None:
        theirs = np.array(expected["boxes"], np.float64).reshape(-1, 4)
        self.faces += len(theirs)
        free = set(range(len(found)))
        for box, score, points in zip(
            theirs, expected["scores"], expected["landmarks"], strict=True
        ):
            for i in free:
                side = min(box[2] - box[0], box[3] - box[1])
                off = np.abs(found.landmarks[i] - np.array(points)).max()
                alike = iou(found.boxes[i], box) > 0.9 and abs(found.scores[i] - score) < 0.01
                # Several candidates can score 1.0; rounding decides which of them is kept.
                if alike and off < 0.05 * side + 0.5:
                    self.alike += 1
                    free.remove(i)
                    break
        self.extra += len(free)


def iou(a, b) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def compare(
    detector: Detector,
    images: Iterable[tuple[str, np.ndarray]],
    record: dict,
    given: Callable[[np.ndarray], np.ndarray],
) -> Agreement:
    """`given` makes of the recorded pixels what the peer was given."""
    agreement = Agreement()
    for name, rgb in images:
        assert hashlib.sha256(rgb).hexdigest() == record[name]["sha256"], name
        agreement.add(detector.detect(given(rgb)), record[name])
    return agreement
