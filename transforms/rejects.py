"""A few dropped faces and images per reason, small, so that an auditor can look at them."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Sample
from facecap.schemas.shard import ShardSpec, face_key, sample_key
from facecap.transforms import pixels, railway, worker
from facecap.transforms.decode import DecodeOptions, decode
from facecap.transforms.resize import shrink
from facecap.transforms.rows import to_json

THUMBNAIL_SIDE = 160
CONTEXT = 0.3
"""A dropped face is shown with this fraction of its box around it, to be recognisable."""


class RejectSampler:
    """Keeps, per reason, the rejects with the smallest hash of their key: a choice that does
    not depend on the order in which samples arrive."""

    def __init__(self, spec: ShardSpec, per_reason: int, options: DecodeOptions) -> None:
        self._spec, self._per_reason, self._options = spec, per_reason, options
        self._chosen: dict[Reason, dict[str, tuple[str, dict[str, bytes]]]] = {}

    def add(self, sample: Sample) -> str | None:
        """Consider a finished sample. Only what could be decoded can be shown.

        Under the railway's rules, for the image is decoded once more; but a defect here changes
        no row any more, so it is returned, as the failure that the shard must have.
        """
        if not self._per_reason or sample.image is None or sample.fetched is None:
            return None
        if sample.drop is not None and sample.drop.stage.order <= Stage.DECODE.order:
            return None
        worker.mark(sample.row)
        settled, failure = railway.settle(sample, Stage.DECODE, self._choose)
        worker.mark(None)
        drop = settled.drop
        if drop is not None and _is_defect(drop) and not _is_defect(sample.drop):
            failure = f"{drop.stage}: {drop.error}"
        return failure and f"rejects: {failure}"

    def _choose(self, sample: Sample) -> Sample:
        """Raises Dropped where the image is broken in a part that the detector's smaller scale
        did not need."""
        spec, image = self._spec, None
        candidates: list[tuple[str, Drop, Face | None]] = []
        if sample.drop is not None:
            key = sample_key(spec.number, spec.first_row, sample.row)
            candidates.append((key, sample.drop, None))
        else:
            candidates += [
                (face_key(spec.number, spec.first_row, sample.row, face.rank), face.drop, face)
                for face in sample.faces
                if face.drop is not None
            ]
        for key, drop, face in candidates:
            chosen = self._chosen.setdefault(drop.reason, {})
            digest = hashlib.sha256(key.encode()).hexdigest()
            if len(chosen) == self._per_reason and digest > max(chosen):
                continue
            if image is None:
                image = self._decode(sample)
            chosen[digest] = (key, _members(sample, drop, face, image))
            if len(chosen) > self._per_reason:
                del chosen[max(chosen)]
        return sample

    def _decode(self, sample: Sample) -> npt.NDArray[np.uint8]:
        if sample.faces:
            return pixels.full(sample, self._options)
        assert sample.fetched is not None and sample.fetched.body is not None  # was decoded
        scale = min(1.0, THUMBNAIL_SIDE / max(_size(sample)))
        return decode(sample.fetched.body, self._options, scale=scale)

    def members(self) -> list[tuple[str, dict[str, bytes]]]:
        """(key, {extension: bytes}) of all that was chosen, sorted by key."""
        return sorted(pair for chosen in self._chosen.values() for pair in chosen.values())


def _is_defect(drop: Drop | None) -> bool:
    return drop is not None and drop.reason is Reason.INTERNAL_ERROR


def _size(sample: Sample) -> tuple[int, int]:
    assert sample.image is not None
    return sample.image.width, sample.image.height


def _members(
    sample: Sample, drop: Drop, face: Face | None, image: npt.NDArray[np.uint8]
) -> dict[str, bytes]:
    if face is not None:
        image = _around(image, face.box)
    small, _ = shrink(image, min(1.0, THUMBNAIL_SIDE / max(image.shape[:2])))
    jpeg = io.BytesIO()
    Image.fromarray(small).save(jpeg, "JPEG", quality=85)
    about = {
        "row": sample.row,
        "url": sample.url,
        "stage": drop.stage,
        "reason": drop.reason,
        "error": drop.error,
        "score": face.score if face else None,
        "box": face.box if face else None,
    }
    return {"jpg": jpeg.getvalue(), "json": to_json(about)}


def _around(
    image: npt.NDArray[np.uint8], box: tuple[float, float, float, float]
) -> npt.NDArray[np.uint8]:
    """The part of uint8 RGB [h, w, 3] in and around `box`, clamped to the image; at least 1 px."""
    height, width = image.shape[:2]
    margin_x, margin_y = CONTEXT * (box[2] - box[0]), CONTEXT * (box[3] - box[1])
    x0 = min(max(0, int(box[0] - margin_x)), width - 1)
    y0 = min(max(0, int(box[1] - margin_y)), height - 1)
    x1 = max(x0 + 1, min(width, int(box[2] + margin_x) + 1))
    y1 = max(y0 + 1, min(height, int(box[3] + margin_y) + 1))
    return image[y0:y1, x0:x1]
