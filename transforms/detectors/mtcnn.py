"""MTCNN (Zhang et al. 2016): three small networks in a cascade, as facenet-pytorch 2.6.0 runs
them (models/utils/detect_face.py), in numpy and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from facecap.transforms.detectors.boxes import Boxes, nms
from facecap.transforms.detectors.detections import Detections
from facecap.transforms.detectors.mtcnn_weights import NETWORKS, WeightsError, network
from facecap.transforms.models import ModelError
from facecap.transforms.onnx_session import ORT_ERRORS, load_onnx, onnx_session

THRESHOLDS = (0.6, 0.7, 0.7)
FACTOR = 0.709

_CELL = 12
"""The side of the image part that one P-Net output looks at, in pixels."""
_STRIDE = 2
_CHUNK = 64
"""Boxes that R-Net and O-Net look at together: memory does not grow with their number."""

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.int32]
"""Prefix sums [h + 1, w + 1, 3]. They overflow in a large image, but differences of them do not:
integers wrap around, and the sum over one bin is small."""


class Mtcnn:
    """Looks for faces of at least `min_face` pixels in the given image.

    Raises ModelError when the file is not the converted model or the provider is missing.
    """

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        model = load_onnx(path.read_bytes(), str(path))
        try:
            self._pnet, self._rnet, self._onet = (
                onnx_session(network(model, n), provider, str(path)) for n in NETWORKS
            )
        except WeightsError as error:
            raise ModelError(f"{path} is no converted MTCNN: {error}") from None
        for session, name, side, expected in (
            (self._pnet, "pnet", _CELL, [(1, 2, 1, 1), (1, 4, 1, 1)]),
            (self._rnet, "rnet", 24, [(1, 2), (1, 4)]),
            (self._onet, "onet", 48, [(1, 2), (1, 4), (1, 10)]),
        ):
            try:
                outputs = _run(session, name, np.zeros((1, 3, side, side), np.float32))
            except ORT_ERRORS as error:
                line = " ".join(str(error).split())[:200]
                raise ModelError(f"{path} cannot be run: {line}") from None
            if [np.shape(output) for output in outputs] != expected:
                raise ModelError(
                    f"{path} is no converted MTCNN: {name} has outputs of other shapes"
                )
        self.min_face = min_face

    def detect(self, rgb: npt.NDArray[np.uint8]) -> Detections:
        """All faces of `rgb` uint8 [h, w, 3], in its pixels."""
        height, width = rgb.shape[:2]
        # Every area interpolation below is a difference of prefix sums, taken once.
        sums = _prefix_sums(rgb)

        boxes = self._propose(sums)
        boxes = boxes[_usable(boxes, width, height)]
        if not len(boxes):
            return Detections.none()

        probability, regression = _look(self._rnet, "rnet", sums, boxes, 24)
        passed = probability[:, 1] > THRESHOLDS[1]
        boxes, scores, moves = boxes[passed], probability[passed, 1], regression[passed]
        kept = nms(boxes, scores, 0.7)
        boxes = _square(_refine(boxes[kept], moves[kept]))
        boxes = boxes[_usable(boxes, width, height)]
        if not len(boxes):
            return Detections.none()

        probability, regression, points = _look(self._onet, "onet", sums, boxes, 48)
        passed = probability[:, 1] > THRESHOLDS[2]
        boxes, scores, points = boxes[passed], probability[passed, 1], points[passed]
        landmarks = _landmarks(boxes, points)
        boxes = _refine(boxes, regression[passed])
        kept = nms(boxes, scores, 0.7, pixel=1, over="smaller")
        return Detections(boxes[kept], scores[kept], landmarks[kept])

    def detect_many(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """What `detect` finds in each of the images. One by one: the levels of an image's pyramid
        have sizes that hardly any other image shares."""
        return [self.detect(rgb) for rgb in images]

    def _propose(self, sums: Sums) -> Boxes:
        """P-Net over an image pyramid: squares that may hold a face, in pixels."""
        height, width = sums.shape[0] - 1, sums.shape[1] - 1
        boxes, scores, moves = [], [], []
        for scale in _scales(min(height, width), self.min_face):
            size = (int(height * scale + 1), int(width * scale + 1))
            probability, regression = _run(self._pnet, "pnet", _resize(sums, size))
            rows, columns = np.nonzero(probability[0, 1] >= THRESHOLDS[0])
            cells = np.stack([columns, rows], axis=1).astype(np.float32) * _STRIDE
            level = np.concatenate(
                [
                    np.floor((cells + 1) / np.float32(scale)),
                    np.floor((cells + _CELL) / np.float32(scale)),
                ],
                axis=1,
            )
            level_scores = probability[0, 1, rows, columns]
            kept = nms(level, level_scores, 0.5)
            boxes.append(level[kept])
            scores.append(level_scores[kept])
            moves.append(regression[0][:, rows[kept], columns[kept]].T)
        if not boxes:
            return np.zeros((0, 4), np.float32)
        all_boxes, all_moves = np.concatenate(boxes), np.concatenate(moves)
        kept = nms(all_boxes, np.concatenate(scores), 0.7)
        all_boxes, all_moves = all_boxes[kept], all_moves[kept]
        sides = all_boxes[:, 2:] - all_boxes[:, :2]
        return _square(all_boxes + all_moves * np.tile(sides, 2))


def _scales(short_side: int, min_face: int) -> list[float]:
    """Scales at which P-Net's cell covers faces of min_face pixels and more."""
    scale = _CELL / min_face
    scales = []
    while short_side * scale >= _CELL:
        scales.append(scale)
        scale *= FACTOR
    return scales


def _run(session: ort.InferenceSession, name: str, images: Floats) -> list[Floats]:
    return session.run(None, {f"{name}/input": images})


def _look(
    session: ort.InferenceSession, name: str, sums: Sums, boxes: Boxes, side: int
) -> list[Floats]:
    """A network's answers on the parts of the image inside the boxes (one or more)."""
    starts = range(0, len(boxes), _CHUNK)
    parts = [_run(session, name, _cut(sums, boxes[i : i + _CHUNK], side)) for i in starts]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _normalise(means: npt.NDArray[np.float64]) -> Floats:
    """[..., h, w, 3] of 0..255 to what the networks take: channels first, about -1..1."""
    channels_first = np.moveaxis(means, -1, -3)
    return np.ascontiguousarray((channels_first - 127.5) * 0.0078125, np.float32)


def _prefix_sums(rgb: npt.NDArray[np.uint8]) -> Sums:
    return np.asarray(cv2.integral(rgb, sdepth=cv2.CV_32S), np.int32)


def _bins(length: npt.ArrayLike, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First and past-the-end source index of each of `count` bins over `length` pixels: the
    area interpolation of torch (adaptive average pooling), whose bins may share pixels."""
    length = np.asarray(length, np.intp)[..., None]
    i = np.arange(count)
    return i * length // count, -(-(i + 1) * length // count)


def _resize(sums: Sums, size: tuple[int, int]) -> Floats:
    """The whole image behind the prefix sums, resized to (height, width): [1, 3, height, width]."""
    top, bottom = _bins(sums.shape[0] - 1, size[0])
    left, right = _bins(sums.shape[1] - 1, size[1])
    rows = sums[bottom] - sums[top]
    total = rows[:, right] - rows[:, left]
    count = (bottom - top)[:, None] * (right - left)
    return _normalise(total / count[..., None])[None]


def _cut(sums: Sums, boxes: Boxes, side: int) -> Floats:
    """The part of the image inside each box, resized: [n, 3, side, side]."""
    x0, y0, x1, y1 = _pixels(boxes, sums.shape[1] - 1, sums.shape[0] - 1).T
    top, bottom = _bins(y1 - y0, side)
    left, right = _bins(x1 - x0, side)
    count = (bottom - top)[:, :, None] * (right - left)[:, None, :]
    stride = sums.shape[1]
    flat = sums.reshape(-1, 3)
    top, bottom = ((edge + y0[:, None])[:, :, None] * stride for edge in (top, bottom))
    left, right = ((edge + x0[:, None])[:, None, :] for edge in (left, right))
    total = flat[bottom + right] - flat[top + right] - flat[bottom + left] + flat[top + left]
    return _normalise(total / count[..., None])


def _pixels(boxes: Boxes, width: int, height: int) -> npt.NDArray[np.intp]:
    """Boxes as slices of the image: cut at its edges, the first pixel counted as 1."""
    whole = np.trunc(boxes).astype(np.intp)
    first = np.maximum(whole[:, :2], 1) - 1
    last = np.minimum(whole[:, 2:], [width, height])
    return np.concatenate([first, last], axis=1)


def _usable(boxes: Boxes, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Boxes that still hold a pixel of the image. (The original skips the others' pixels but
    keeps their rows, which then get the next box's answer.)"""
    x0, y0, x1, y1 = _pixels(boxes, width, height).T
    return (x1 > x0) & (y1 > y0)


def _refine(boxes: Boxes, moves: Floats) -> Boxes:
    """Bounding-box regression: each edge moved by a fraction of the box side."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + moves * np.tile(sides, 2)


def _square(boxes: Boxes) -> Boxes:
    """The box grown to a square about its centre."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([corner, corner + side], axis=1)


def _landmarks(boxes: Boxes, points: Floats) -> Floats:
    """O-Net's points (five x, then five y, in fractions of its square) in pixels: [n, 5, 2]."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    x = sides[:, :1] * points[:, :5] + boxes[:, :1] - 1
    y = sides[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1
    return np.stack([x, y], axis=2)
