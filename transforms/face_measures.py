"""What is measured on a face for later filtering: quality, pose from landmarks, perceptual hash."""

from __future__ import annotations

import math

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
import scipy.fftpack  # noqa: F401 - ImageHash would import it (2 s) amid the first shard
from PIL import Image

from facecap.schemas.sample import Box, Point
from facecap.transforms.resize import shrink

SHARPNESS_SIDE = 128
"""Faces are brought to this short side (px) before sharpness is measured."""


PHASH_SIDE = 64
"""Pictures keep at least this short side (px) before they are hashed."""


def visible_box(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """`box` grown to whole pixels and cut at the borders of an image of width x height:
    (x0, y0, x1, y1), x1 and y1 exclusive; without area where the box is outside the image."""
    x0, y0 = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    x1, y1 = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
    return x0, y0, max(x0, x1), max(y0, y1)


def gray_face(rgb: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """The visible part of `box` in the image `rgb` (uint8 [h,w,3]) as luma: uint8 [h',w'], 0-255,
    Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    x0, y0, x1, y1 = visible_box(box, rgb.shape[1], rgb.shape[0])
    gray = cv2.cvtColor(rgb[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    return np.asarray(gray, dtype=np.uint8)


def sharpness(gray: npt.NDArray[np.uint8]) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) of `gray` [h,w], in squared gray
    levels (0-255); the 4-neighbour kernel, borders mirrored.

    It grows with resolution, so the face is first brought to a short side of SHARPNESS_SIDE px
    (averaged down, or interpolated up): faces of different sizes can be compared, and detail
    finer than that does not count.
    """
    factor = SHARPNESS_SIDE / min(gray.shape)
    if factor < 1:
        face, _ = shrink(gray, factor)
    else:
        size = (max(1, round(gray.shape[1] * factor)), max(1, round(gray.shape[0] * factor)))
        face = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return float(cv2.Laplacian(face, cv2.CV_64F, ksize=1).var())


def brightness(gray: npt.NDArray[np.uint8]) -> float:
    """Mean luma of `gray` [h,w], 0 (black) to 255 (white)."""
    return float(cv2.mean(gray)[0])


def roll(landmarks: tuple[Point, ...]) -> float:
    """Degrees by which the line from the left to the right eye (as seen in the image) is turned
    clockwise from the horizontal: -180 to 180, 0 for an upright head."""
    (lx, ly), (rx, ry) = landmarks[0], landmarks[1]
    return math.degrees(math.atan2(ry - ly, rx - lx))


def yaw(landmarks: tuple[Point, ...]) -> float:
    """How far the head is turned, as a ratio without unit (not degrees): the offset of the nose
    from the midpoint of the eyes, along the line of the eyes, divided by the distance of the eyes.

    0 for a frontal face, positive when the nose points to the right of the image, about -0.5 or
    0.5 when it is under an eye. NaN where the eyes coincide.
    """
    left, right, nose = (complex(*landmarks[i]) for i in range(3))
    eyes = right - left
    if eyes == 0:
        return math.nan
    return ((nose - (left + right) / 2) / eyes).real


def phash(rgb: npt.NDArray[np.uint8]) -> str:
    """The 64-bit perceptual hash of the picture `rgb` (uint8 [h,w,3]) as 16 hex digits: the signs
    of the low 8 x 8 DCT coefficients against their median (ImageHash's `phash`).

    The luma is first averaged down by a power of two to no less than 64 px, a fifth of the time:
    ImageHash itself brings it to 32 x 32.
    """
    gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    halvings = int(math.log2(max(1.0, min(gray.shape) / PHASH_SIDE)))
    small, _ = shrink(gray, 0.5**halvings)
    return str(imagehash.phash(Image.fromarray(small)))


def inside(box: Box, width: int, height: int) -> float:
    """The share (0-1) of the area of `box` that lies inside an image of width x height."""
    x0, y0, x1, y1 = box
    area = (x1 - x0) * (y1 - y0)
    seen = max(0.0, min(x1, width) - max(x0, 0)) * max(0.0, min(y1, height) - max(y0, 0))
    return seen / area if area > 0 else 0.0
