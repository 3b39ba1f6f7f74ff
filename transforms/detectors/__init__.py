"""The face detectors by name. A new one is one class and one entry here (and, when it is to
be found or fetched by name, one in `models.REGISTRY`)."""

from __future__ import annotations

from dataclasses import dataclass

from facecap.transforms.detectors.detections import Detections, Detector
from facecap.transforms.detectors.mtcnn import Mtcnn
from facecap.transforms.detectors.scrfd import Scrfd
from facecap.transforms.detectors.yunet import YuNet

__all__ = ["DETECTORS", "Detections", "Detector", "DetectorType"]


@dataclass(frozen=True, slots=True)
class DetectorType:
    """`min_face` is the short side in pixels at which faces are still found as well as at full
    size (measured: docs/decisions.md); `min_score` is the default of crop.min_score."""

    detector: type[Detector]
    min_face: int
    min_score: float


DETECTORS: dict[str, DetectorType] = {
    "mtcnn": DetectorType(Mtcnn, min_face=40, min_score=0.98),
    "scrfd-10g": DetectorType(Scrfd, min_face=32, min_score=0.65),
    "scrfd-2.5g": DetectorType(Scrfd, min_face=32, min_score=0.65),
    "scrfd-500m": DetectorType(Scrfd, min_face=32, min_score=0.65),
    "yunet": DetectorType(YuNet, min_face=32, min_score=0.7),
}
