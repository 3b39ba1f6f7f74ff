"""What a detector gives back, and what it has to be."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """A detector: one class with this constructor and method, and one entry in DETECTORS."""

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        """Load the model file; faces under `min_face` pixels need not be found.

        Raises ModelError.
        """

    def detect(self, rgb: npt.NDArray[np.uint8]) -> Detections:
        """All faces of `rgb` uint8 [h, w, 3]; depends on nothing but its pixels."""
        ...
