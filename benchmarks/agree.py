"""Which faces two tools keep of the same photographs, and why they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

SAME_FACE = 0.5
"""Boxes of at least this intersection over union are the same face."""

CROP_REASONS = {"too_small", "low_score", "too_many_faces"}


@dataclass(frozen=True)
class Detected:
    """A face in pixels of the original, [x0, y0, x1, y1]; `dropped` says why it was not kept."""

    box: tuple[float, float, float, float]
    score: float
    dropped: str | None

    @property
    def side(self) -> float:
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    def __str__(self) -> str:
        return f"{self.side:.0f} px, score {self.score:.2f}"


Faces = dict[str, list[Detected]]
"""By photograph."""


@dataclass(frozen=True)
class Difference:
    """A face that one tool keeps and the other does not, and what the other says of it."""

    photograph: str
    kept_by: str
    face: Detected
    reason: str


def ours(output: Path) -> Faces:
    """What a build detected: a face counts as kept when it passed Crop, whatever its labels."""
    faces: Faces = {}
    for path in sorted((output / "ledger").iterdir()):
        for row in pq.read_table(path, columns=["url", "faces"]).to_pylist():
            faces.setdefault(photograph(row["url"]), [_of_ledger(f) for f in row["faces"] or []])
    return faces


def _of_ledger(face: dict[str, Any]) -> Detected:
    reason = face["reason"] if face["reason"] in CROP_REASONS else None
    return Detected(tuple(face["box"]), face["score"], reason)


def peers(files: Iterable[Path], min_side: float, min_score: float) -> Faces:
    """What the peers' loop detected, with our two limits applied."""
    faces: Faces = {}
    for path in files:
        for photo in json.loads(path.read_text())["photos"]:
            found = [
                _limited(tuple(box), score, min_side, min_score)
                for box, score in zip(photo["boxes"], photo["scores"], strict=True)
            ]
            faces.setdefault(photograph(photo["url"]), found)
    return faces


def _limited(
    box: tuple[float, float, float, float], score: float, min_side: float, min_score: float
) -> Detected:
    face = Detected(box, score, None)
    if face.side < min_side:
        return Detected(box, score, "too_small")
    return Detected(box, score, "low_score") if score < min_score else face


def photograph(url: str) -> str:
    """The path of a URL, without the query that makes it distinct."""
    return unquote(urlsplit(url).path).lstrip("/")


def differences(ours: Faces, peers: Faces) -> list[Difference]:
    """The faces that one side keeps and the other does not, by photograph."""
    found = []
    for name in sorted(ours.keys() | peers.keys()):
        mine, theirs = ours.get(name, []), peers.get(name, [])
        found += _only(name, "facecap", mine, theirs, name in peers)
        found += _only(name, "peers", theirs, mine, name in ours)
    return found


def _only(
    name: str, kept_by: str, faces: list[Detected], others: list[Detected], seen: bool
) -> list[Difference]:
    only = []
    for face in (f for f in faces if f.dropped is None):
        same = [o for o in others if iou(face.box, o.box) >= SAME_FACE]
        if any(o.dropped is None for o in same):
            continue
        if same:
            nearest = max(same, key=lambda o: iou(face.box, o.box))
            reason = f"{nearest.dropped} ({nearest})"
        else:
            reason = "not detected" if seen else "no photograph"
        only.append(Difference(name, kept_by, face, reason))
    return only


def iou(a: Iterable[float], b: Iterable[float]) -> float:
    """Intersection over union of two boxes [x0, y0, x1, y1]."""
    p, q = _array(a), _array(b)
    sides = np.clip(np.minimum(p[2:], q[2:]) - np.maximum(p[:2], q[:2]), 0, None)
    shared = float(sides.prod())
    union = float((p[2:] - p[:2]).prod() + (q[2:] - q[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0


def _array(box: Iterable[float]) -> npt.NDArray[np.float64]:
    return np.array(list(box), np.float64)


def kept(faces: Faces) -> int:
    """How many faces are kept, over the distinct photographs."""
    return sum(face.dropped is None for found in faces.values() for face in found)
