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
    left = boxes[order]
    kept = []
    if len(order) <= _MATRIX_LIMIT:
        matrix = _overlap(left[:, None], left[None], pixel, over) > threshold
        alive = np.ones(len(order), bool)
        for i in range(len(order)):
            if alive[i]:
                kept.append(order[i])
                alive &= ~matrix[i]
    else:
        while len(order):
            kept.append(order[0])
            alive = _overlap(left[0], left, pixel, over) <= threshold
            alive[0] = False
            order, left = order[alive], left[alive]
    return np.array(kept, np.intp)


def _overlap(a: Boxes, b: Boxes, pixel: float, over: str) -> npt.NDArray[np.float32]:
    corner = np.maximum(a[..., :2], b[..., :2])
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - corner + np.float32(pixel), 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a, area_b = area(a, pixel), area(b, pixel)
    whole = np.minimum(area_a, area_b) if over == "smaller" else area_a + area_b - shared
    # A box without area overlaps nothing; regression can produce one.
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def area(boxes: Boxes, pixel: float = 0.0) -> npt.NDArray[np.float32]:
    """Areas in square pixels, of the last axis."""
    sides = boxes[..., 2:] - boxes[..., :2] + np.float32(pixel)
    return sides[..., 0] * sides[..., 1]
