"""Operations on boxes: float32 [n, 4] as x0, y0, x1, y1 in pixels, x to the right, y down."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]

MAX_BOXES = 4000
"""Of more boxes only those of the best scores are looked at, so that an image of nothing but faces
takes bounded time. A photograph of a crowd gives a few hundred."""

_MATRIX_LIMIT = 1000
"""Boxes up to which all pairs are compared at once; above, memory would grow with the square."""


def nms(
    boxes: Boxes,
    scores: npt.NDArray[np.float32],
    threshold: float,
    *,
    pixel: float = 0.0,
    over: Literal["union", "smaller"] = "union",
) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the kept boxes, best first (ties: first come).

    A box is dropped when its overlap with a better kept one is more than `threshold`: the
    intersection over the union, or over the smaller of both boxes. `pixel` 1 takes the
    coordinates for inclusive pixel positions, as the Caffe-era detectors do. Boxes beyond the best
    MAX_BOXES are dropped, too.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    if len(order) <= 1:
        return order
    sides = boxes[order].T
    kept = []
    if len(order) <= _MATRIX_LIMIT:
        matrix = _overlapping(sides[:, :, None], sides[:, None], threshold, pixel, over)
        alive = np.ones(len(order), bool)
        for i in range(len(order)):
            if alive[i]:
                kept.append(order[i])
                alive &= ~matrix[i]
    else:
        while len(order):
            kept.append(order[0])
            alive = ~_overlapping(sides[:, :1], sides, threshold, pixel, over)
            alive[0] = False
            order, sides = order[alive], sides[:, alive]
    return np.array(kept, np.intp)


def _overlapping(
    a: Boxes, b: Boxes, threshold: float, pixel: float, over: str
) -> npt.NDArray[np.bool_]:
    """Whether boxes overlap by more than `threshold`; x0, y0, x1, y1 lie along the first axis."""
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + np.float32(pixel)
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + np.float32(pixel)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = (_area(sides, pixel) for sides in (a, b))
    whole = np.minimum(area_a, area_b) if over == "smaller" else area_a + area_b - shared
    # A box without area overlaps nothing; regression can produce one.
    return (shared > np.float32(threshold) * whole) & (whole > 0)


def _area(sides: Boxes, pixel: float) -> npt.NDArray[np.float32]:
    return (sides[2] - sides[0] + np.float32(pixel)) * (sides[3] - sides[1] + np.float32(pixel))
