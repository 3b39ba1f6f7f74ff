"""YuNet (Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023), decoded as
OpenCV's FaceDetectorYN does (modules/objdetect/src/face_detect.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facecap.transforms.detectors.boxes import nms
from facecap.transforms.detectors.detections import Detections
from facecap.transforms.detectors.one_pass import RGB, STRIDES, Form, OnePass, detect_in_tiles

MIN_SCORE = 0.5
MAX_OVERLAP = 0.3

FORM = Form(
    name="YuNet",
    widths=(1, 1, 4, 10),
    anchors=1,
    outputs=tuple(f"{name}_{s}" for name in ("cls", "obj", "bbox", "kps") for s in STRIDES),
    mean=0,
    scale=1,
    channels=(2, 1, 0),
)


class YuNet:
    """Finds faces of about 10 pixels and more, whatever `min_face`: one pass, no pyramid.

    Raises ModelError when the file is not a YuNet or the provider is missing.
    """

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        self._network = OnePass(path, provider, FORM)

    def detect(self, rgb: RGB) -> Detections:
        """All faces of `rgb` uint8 [h, w, 3], in its pixels: scores from 0.5 up, best first."""
        return self.detect_many([rgb])[0]

    def detect_many(self, images: Sequence[RGB]) -> list[Detections]:
        """What `detect` finds in each of the images."""
        seen = detect_in_tiles(images, lambda parts: self._network.look(parts, decode))
        return [_suppressed(found) for found in seen]


def _suppressed(found: Detections) -> Detections:
    # OpenCV suppresses by corners and sides cut to whole pixels, each for itself.
    corners = np.trunc(found.boxes[:, :2])
    sides = np.trunc(found.boxes[:, 2:] - found.boxes[:, :2])
    whole = np.concatenate([corners, corners + sides], axis=1)
    return found.take(nms(whole, found.scores, MAX_OVERLAP))


def decode(outputs: list[npt.NDArray[np.float32]], canvas_width: int) -> Detections:
    """Boxes of at least MIN_SCORE before suppression, from the twelve outputs of one image: class
    and object scores [cells, 1], boxes [cells, 4] (centre from the cell's corner, logarithm of
    width and height, in strides) and landmarks [cells, 10] (from the cell's corner, in strides),
    each for the strides 8, 16 and 32."""
    parts = []
    for level, stride in enumerate(STRIDES):
        classes, objects = (outputs[level + k].reshape(-1).clip(0, 1) for k in (0, 3))
        scores = np.sqrt(classes * objects)
        (cell,) = np.nonzero(scores >= MIN_SCORE)
        if not len(cell):
            continue
        columns = canvas_width // stride
        corner = np.stack([cell % columns, cell // columns], axis=1).astype(np.float32)
        box = outputs[level + 6].reshape(-1, 4)[cell]
        centre = (corner + box[:, :2]) * stride
        # Nothing larger than e^10 strides is a face: hostile weights must not overflow.
        sides = np.exp(np.minimum(box[:, 2:], 10)) * stride
        points = outputs[level + 9].reshape(-1, 5, 2)[cell]
        boxes = np.concatenate([centre - sides / 2, centre + sides / 2], axis=1)
        parts.append(Detections(boxes, scores[cell], (points + corner[:, None]) * stride))
    return Detections.joined(parts)
