"""Finished samples, made without a network or a model, for tests of what stores them."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image

from facecap.schemas.captions import Caption
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Crop, Face, Fetched, ImageInfo, Sample


def jpeg(seed: int, size: int = 48) -> bytes:
    """A small valid JPEG of noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def face(rank: int, drop: Drop | None = None, seed: int = 0) -> Face:
    kept = drop is None
    crop = Crop(jpeg(seed, 16), 16, 16, "none", *[0.5] * 4, "ff", 1.0)
    return Face(
        rank=rank,
        box=(1.0, 2.0, 30.0 - rank, 31.0 - rank),
        score=0.99,
        landmarks=((1, 1), (2, 1), (1.5, 2), (1, 3), (2, 3)),
        drop=drop,
        crop=crop if kept else None,
        probabilities=np.linspace(0, 1, 40, dtype=np.float32) if kept else None,
        labels=("Smiling",) if kept else (),
        captions=(Caption(f"The person is smiling {seed}.", ("Smiling",), "person"),) * kept,
    )


ROW_DROPS = (
    Drop(Stage.READ, Reason.MISSING_URL),
    Drop(Stage.DOWNLOAD, Reason.DNS),
    Drop(Stage.DOWNLOAD, Reason.NOT_FOUND, "HTTP 404"),
    Drop(Stage.DECODE, Reason.TRUNCATED),
    Drop(Stage.DETECT, Reason.NO_FACE),
)
FACE_DROPS = (
    Drop(Stage.CROP, Reason.TOO_SMALL),
    Drop(Stage.CROP, Reason.LOW_SCORE),
    Drop(Stage.ATTRIBUTES, Reason.FEW_LABELS),
)


def random_sample(row: int, rng: random.Random) -> Sample:
    """A finished sample with any outcome."""
    url = f"http://host/{row}"
    extra = {"similarity": row / 10}
    if rng.random() < 0.5:
        drop = rng.choice(ROW_DROPS)
        decoded = drop.stage is Stage.DETECT
        return Sample(
            row,
            url,
            drop=drop,
            extra=extra,
            fetched=Fetched(200, jpeg(row), "ab") if decoded else Fetched(404),
            image=ImageInfo("JPEG", 48, 48) if decoded else None,
        )
    faces = tuple(
        face(rank, rng.choice((None, *FACE_DROPS)), seed=row) for rank in range(rng.randint(1, 3))
    )
    return Sample(
        row,
        url,
        f"alt {row}",
        extra,
        fetched=Fetched(200, jpeg(row), "ab"),
        image=ImageInfo("JPEG", 48, 48),
        faces=faces,
    )
