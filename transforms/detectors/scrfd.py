"""SCRFD (Guo et al., "Sample and Computation Redistribution for Efficient Face Detection",
2021), as insightface exports it, and the decoding of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facecap.transforms.detectors.boxes import nms
from facecap.transforms.detectors.detections import Detections
from facecap.transforms.detectors.one_pass import RGB, STRIDES, Form, OnePass, detect_in_tiles

ANCHORS = 2
"""Anchors per cell: of two sizes around the same centre, which the decoding need not know."""
MIN_SCORE = 0.5
MAX_OVERLAP = 0.4

FORM = Form(
    name="SCRFD with landmarks",
    widths=(1, 4, 10),
    anchors=ANCHORS,
    outputs=None,
    mean=127.5,
    scale=1 / 128,
    channels=(0, 1, 2),
)


class Scrfd:
    """Finds faces of about 16 pixels and more, whatever `min_face`: one pass, no pyramid.

    Raises ModelError when the file is not an SCRFD with landmarks or the provider is missing.
    """

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        self._network = OnePass(path, provider, FORM)

    def detect(self, rgb: RGB) -> Detections:
        """All faces of `rgb` uint8 [h, w, 3], in its pixels: scores from 0.5 up, best first."""
        return self.detect_many([rgb])[0]

    def detect_many(self, images: Sequence[RGB]) -> list[Detections]:
        """What `detect` finds in each of the images."""
        seen = detect_in_tiles(images, lambda parts: self._network.look(parts, decode))
        return [found.take(nms(found.boxes, found.scores, MAX_OVERLAP, pixel=1)) for found in seen]


def decode(outputs: list[npt.NDArray[np.float32]], canvas_width: int) -> Detections:
    """Boxes of at least MIN_SCORE before suppression, from the nine outputs of one image:
    scores [cells * 2, 1], edge distances [cells * 2, 4] and landmark offsets [cells * 2, 10],
    in strides from the cell's corner, each for the strides 8, 16 and 32."""
    parts = []
    for level, stride in enumerate(STRIDES):
        scores = outputs[level].reshape(-1)
        (anchor,) = np.nonzero(scores >= MIN_SCORE)
        if not len(anchor):
            continue
        cell = anchor // ANCHORS
        columns = canvas_width // stride
        centre = np.stack([cell % columns, cell // columns], axis=1).astype(np.float32) * stride
        distances = outputs[level + 3].reshape(-1, 4)[anchor] * stride
        offsets = outputs[level + 6].reshape(-1, 5, 2)[anchor] * stride
        boxes = np.concatenate([centre - distances[:, :2], centre + distances[:, 2:]], axis=1)
        parts.append(Detections(boxes, scores[anchor], centre[:, None] + offsets))
    return Detections.joined(parts)
