"""Five-point alignment of a face to a template: what the classifier sees, and aligned crops."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from facecap.schemas.sample import Box, Face, Point
from facecap.transforms.resize import shrink

FivePoints = tuple[Point, Point, Point, Point, Point]
"""Left eye, right eye, nose, left mouth corner, right mouth corner: left as seen in the image."""

ARCFACE_SIZE = 112
ARCFACE_TEMPLATE: FivePoints = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""The 112 x 112 template of ArcFace (insightface, `insightface/utils/face_align.py`)."""

MEAN_FACE_IN_BOX: FivePoints = (
    (0.27, 0.40),
    (0.73, 0.40),
    (0.50, 0.59),
    (0.29, 0.74),
    (0.71, 0.74),
)
"""Where the five points of a frontal face lie in a detector's box, as fractions of its sides
(medians over 105 upright, frontal faces that SCRFD found in photographs, made symmetric): the
placement of last resort, for landmarks that determine no alignment."""

MIN_SPREAD = 0.02
"""Landmarks whose root mean square distance from their mean is under this share of the box's
short side are one point for our purpose."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """An aligned chip: where its five points lie, and its size, in pixels of the chip."""

    template: FivePoints
    width: int
    height: int


def arcface(size: int) -> Alignment:
    """ArcFace's template scaled to a chip of `size` x `size` pixels."""
    factor = size / ARCFACE_SIZE
    a, b, c, d, e = ((x * factor, y * factor) for x, y in ARCFACE_TEMPLATE)
    return Alignment((a, b, c, d, e), size, size)


def similarity(
    points: npt.ArrayLike, template: npt.ArrayLike, *, min_spread: float = 0.0
) -> npt.NDArray[np.float64] | None:
    """The similarity (rotation, scale, shift; no reflection) that takes `points` [n,2] nearest to
    `template` [n,2] in least squares, as a 2 x 3 matrix; None where the points determine none.

    It is the optimum of Umeyama (IEEE TPAMI 13(4), 1991); in two dimensions it has a closed form
    over complex numbers. Collinear points determine it; it is undetermined for points that are
    not finite, that lie within `min_spread` (root mean square, pixels) of their mean, or that
    have nothing in common with the template (optimal scale 0).
    """
    if not np.isfinite(points).all():
        return None
    source = np.asarray(points, dtype=np.float64) @ (1, 1j)
    target = np.asarray(template, dtype=np.float64) @ (1, 1j)
    centred = source - source.mean()
    spread = float(np.mean(np.abs(centred) ** 2))
    if spread <= min_spread**2:
        return None
    a = complex(np.mean(centred.conj() * (target - target.mean()))) / spread
    if abs(a) * math.sqrt(spread) < 1e-6 * float(np.abs(target).max()):
        return None
    b = complex(target.mean() - a * source.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def face_matrix(face: Face, alignment: Alignment) -> npt.NDArray[np.float64]:
    """The 2 x 3 matrix from pixels of the image to pixels of the chip, for `face`.

    Landmarks that determine no similarity (see `similarity`) never raise: the chip is then placed
    by the box alone, as if the points of a frontal, upright face lay in it.
    """
    x0, y0, x1, y1 = face.box
    matrix = similarity(
        face.landmarks, alignment.template, min_spread=MIN_SPREAD * max(face.side, 1e-3)
    )
    if matrix is None:
        matrix = similarity(points_in_box(face.box), alignment.template)
    if matrix is None:
        raise ValueError(f"face box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no area")
    return matrix


def points_in_box(box: Box) -> npt.NDArray[np.float64]:
    """The five points [5,2] of the mean face placed in `box`."""
    x0, y0, x1, y1 = box
    return np.array(MEAN_FACE_IN_BOX) * (x1 - x0, y1 - y0) + (x0, y0)


def align(rgb: npt.NDArray[np.uint8], face: Face, alignment: Alignment) -> npt.NDArray[np.uint8]:
    """The aligned chip of `face`: uint8 RGB [alignment.height, alignment.width, 3].

    `rgb` is the full upright image, uint8 [h,w,3], in whose pixels the landmarks are given.
    """
    return warp(rgb, face_matrix(face, alignment), (alignment.width, alignment.height))


def chip_leaves_image(
    matrix: npt.NDArray[np.float64], size: tuple[int, int], width: int, height: int
) -> bool:
    """Whether a chip of `size` (width, height) shows pixels outside an image of width x height."""
    x, y = _corners(matrix, size)
    return bool(x.min() < -0.5 or y.min() < -0.5 or x.max() > width - 0.5 or y.max() > height - 0.5)


def warp(
    rgb: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """A chip of `size` (width, height): uint8 RGB [height, width, 3].

    `matrix` [2,3] takes pixels of `rgb` (uint8 [h,w,3]; integers are pixel centres) to pixels of
    the chip. Outside the image, its border pixels are repeated. Bilinear; where the chip is
    smaller than the face, the region is first averaged down to the chip's scale, because bilinear
    sampling alone would alias.
    """
    height, width = rgb.shape[:2]
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    x, y = _corners(matrix, size)
    reach = math.ceil(2 / min(scale, 1.0)) + 1
    x0, x1 = _span(x, reach, width)
    y0, y1 = _span(y, reach, height)
    region = rgb[y0:y1, x0:x1]
    to_image = np.array([[1.0, 0.0, x0], [0.0, 1.0, y0], [0.0, 0.0, 1.0]])
    if scale < 1.0:
        region, (fx, fy) = shrink(region, scale)
        # Pixel centres: small pixel i covers [i*fx, (i+1)*fx) of the region.
        to_region = np.array([[fx, 0.0, fx / 2 - 0.5], [0.0, fy, fy / 2 - 0.5], [0.0, 0.0, 1.0]])
        to_image = to_image @ to_region
    chip = cv2.warpAffine(
        region, matrix @ to_image, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(chip, dtype=np.uint8)


def _corners(
    matrix: npt.NDArray[np.float64], size: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """x [4] and y [4], in the image, of the centres of the chip's corner pixels."""
    right, bottom = size[0] - 1, size[1] - 1
    corners = np.array([[0, right, 0, right], [0, 0, bottom, bottom]], dtype=np.float64)
    x, y = np.linalg.solve(matrix[:, :2], corners - matrix[:, 2:])
    return x, y


def _span(values: npt.NDArray[np.float64], reach: int, limit: int) -> tuple[int, int]:
    """The range of pixels from min to max of `values`, widened by `reach`, of which at least one
    pixel lies in [0, limit)."""
    low, high = (np.clip(v, -1, limit) for v in (values.min() - reach, values.max() + reach))
    first = min(max(math.floor(low), 0), limit - 1)
    return first, max(first + 1, min(math.ceil(high) + 1, limit))
