"""What is stored about a sample and a face: the rows of the ledger and of the metadata, and their
JSON text."""

from __future__ import annotations

import json
import math
from typing import Any

from facecap.schemas.outcomes import Outcome
from facecap.schemas.sample import Face, Fetched, Sample
from facecap.schemas.tables import input_column_names


def ledger_row(sample: Sample) -> dict[str, Any]:
    """The ledger's row of a finished sample (schemas.tables.LEDGER)."""
    drop, fetched, image = sample.final_drop, sample.fetched or Fetched(), sample.image
    return {
        "row": sample.row,
        "url": sample.url,
        "outcome": sample.outcome,
        "stage": drop.stage if drop else None,
        "reason": drop.reason if drop else None,
        "error": drop.error if drop else None,
        "http_status": fetched.http_status,
        "format": image.format if image else None,
        "width": image.width if image else None,
        "height": image.height if image else None,
        "bytes": len(fetched.body) if fetched.body is not None else None,
        "sha256": fetched.sha256,
        "faces": [_ledger_face(face, sample) for face in sample.faces],
    }


def _ledger_face(face: Face, sample: Sample) -> dict[str, Any]:
    drop = face.drop or sample.drop
    return {
        "outcome": Outcome.DROPPED if drop else Outcome.KEPT,
        "stage": drop.stage if drop else None,
        "reason": drop.reason if drop else None,
        "error": drop.error if drop else None,
        "score": face.score,
        "box": face.box,
    }


def metadata_row(key: str, sample: Sample, face: Face) -> dict[str, Any]:
    """The metadata's row of a kept face (schemas.tables.METADATA and the input's columns)."""
    crop, image, fetched = face.crop, sample.image, sample.fetched
    assert crop and image and fetched and face.probabilities is not None  # it was kept
    return {
        "key": key,
        "row": sample.row,
        "url": sample.url,
        "source_caption": sample.source_caption,
        "caption": face.caption,
        "raw_caption": face.raw_caption,
        "labels": list(face.labels),
        "stated_labels": list(face.stated_labels),
        "probabilities": face.probabilities.tolist(),
        "box": list(face.box),
        "landmarks": [list(point) for point in face.landmarks],
        "score": face.score,
        "faces_in_image": len(sample.faces),
        "face_rank": face.rank,
        "format": image.format,
        "width": image.width,
        "height": image.height,
        "crop_width": crop.width,
        "crop_height": crop.height,
        "outside": crop.outside,
        "sharpness": crop.sharpness,
        "brightness": crop.brightness,
        "roll": crop.roll,
        "yaw": crop.yaw,
        "inside": crop.inside,
        "phash": crop.phash,
        "sha256": fetched.sha256,
        **dict(zip(input_column_names(sample.extra), sample.extra.values(), strict=True)),
    }


def to_json(row: dict[str, Any]) -> bytes:
    """A row as JSON (RFC 8259) in UTF-8. What JSON does not have becomes: a NaN or an infinity
    null, binary data lower-case hex, any other type (a date, a decimal) its text."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False, default=str).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
