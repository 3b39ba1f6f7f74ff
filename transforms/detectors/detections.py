"""What a detector gives back, and what it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Detections:
    """n faces in pixels of the given image, x to the right, y down.

    boxes: float32 [n, 4] as x0, y0, x1, y1, not cut at the image's edges; scores: float32 [n],
    0 to 1; landmarks: float32 [n, 5, 2] in the order of `schemas.sample.Face.landmarks`.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]

    @classmethod
    def none(cls) -> Detections:
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, 5, 2), np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence[Detections]) -> Detections:
        """The faces of all parts, in their order."""
        if not parts:
            return cls.none()
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Detections:
        """The faces at these indices, or where `chosen` is true."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.landmarks[chosen])

    def moved(self, x: float, y: float) -> Detections:
        """The same faces, that many pixels to the right and down."""
        shift = np.array([x, y], np.float32)
        boxes = self.boxes + np.concatenate([shift, shift])
        return Detections(boxes, self.scores, self.landmarks + shift)


class Detector(Protocol):
    """A detector: one class with this constructor and methods, and one entry in DETECTORS."""

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        """Load the model file; faces under `min_face` pixels need not be found.

        Raises ModelError.
        """

    def detect(self, rgb: npt.NDArray[np.uint8]) -> Detections:
        """All faces of `rgb` uint8 [h, w, 3]; depends on nothing but its pixels."""
        ...

    def detect_many(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """What `detect` finds in each of the images, which may be of any sizes. An accelerator
        looks at many at once; what is found in one does not depend on the others."""
        ...
