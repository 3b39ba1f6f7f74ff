"""What is stored about a sample and a face: the rows of the ledger and of the metadata, and their
JSON text."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from facecap.schemas.commit import Counts
from facecap.schemas.outcomes import Outcome
from facecap.schemas.sample import Face, Fetched, Sample
from facecap.schemas.tables import input_column_names
from facecap.transforms.caption_columns import CaptionConfig, caption_columns


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


def metadata_row(key: str, sample: Sample, face: Face, captions: CaptionConfig) -> dict[str, Any]:
    """The metadata's row of a kept face (schemas.tables.METADATA and the input's columns)."""
    crop, image, fetched = face.crop, sample.image, sample.fetched
    assert crop and image and fetched and face.probabilities is not None  # it was kept
    return {
        "key": key,
        "row": sample.row,
        "url": sample.url,
        "source_caption": sample.source_caption,
        **caption_columns(face.captions, sample.source_caption, captions),
        "labels": list(face.labels),
        "probabilities": face.probabilities.tolist(),
        "looks_under_18": face.looks_under_18,
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


def count_ledger(ledger: list[dict[str, Any]]) -> Counts:
    """The counts of ledger rows (see schemas.tables.LEDGER)."""
    faces = [face for row in ledger for face in row["faces"]]

    def drops(entries: list[dict[str, Any]]) -> dict[str, int]:
        dropped = (e for e in entries if e["outcome"] == Outcome.DROPPED)
        return dict(sorted(Counter(f"{e['stage']}/{e['reason']}" for e in dropped).items()))

    return Counts(
        rows=len(ledger),
        rows_kept=sum(row["outcome"] == Outcome.KEPT for row in ledger),
        faces=len(faces),
        faces_kept=sum(face["outcome"] == Outcome.KEPT for face in faces),
        rows_dropped=drops(ledger),
        faces_dropped=drops(faces),
    )
