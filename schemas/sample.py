"""What flows: a batch of samples of one shard, each with the faces found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from facecap.schemas.captions import Caption
from facecap.schemas.outcomes import Drop, Outcome
from facecap.schemas.shard import ShardSpec

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Outside = Literal["none", "clamped", "padded"]


@dataclass(frozen=True, slots=True)
class Crop:
    """The saved crop of a face and what was measured on it.

    `jpeg` is the encoded crop at the original resolution. `outside` says what became of a part of
    the crop outside the image: there was none, it was clamped off, or it was padded.
    """

    jpeg: bytes
    width: int
    height: int
    outside: Outside
    sharpness: float
    brightness: float
    roll: float
    yaw: float
    phash: str
    inside: float


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face; coordinates in pixels of the upright original, x to the right, y down.

    `rank` orders the faces of an image by box area, 0 the largest; it is FACE in the key.
    `box` is (x0, y0, x1, y1); `landmarks` are five points (x, y) in the order left eye, right
    eye, nose, left mouth corner, right mouth corner, left as seen in the image. `chip` is the face
    warped to the attribute classifier's own alignment, uint8 RGB [height, width, 3], until it is
    classified. `crop` is there when the face has passed every rule.
    `probabilities` is float32 [labels] in the order of the classifier's label list.
    `looks_under_18` is None where no model at hand tells.
    """

    rank: int
    box: Box
    score: float
    landmarks: tuple[Point, Point, Point, Point, Point]
    drop: Drop | None = None
    chip: npt.NDArray[np.uint8] | None = None
    crop: Crop | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    labels: tuple[str, ...] = ()
    looks_under_18: bool | None = None
    captions: tuple[Caption, ...] = ()

    @property
    def side(self) -> float:
        """The short side of the box, in pixels."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a URL: `body` is as received (content decoding undone), not yet trusted.

    `sha256` is lower-case hex of `body`; both are None when no body was kept.
    """

    http_status: int | None = None
    body: bytes | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the image is: `format` in Pillow's names, the size upright (EXIF applied)."""

    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One input row on its way. `drop` is set when the whole row left the line."""

    row: int
    url: str
    source_caption: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    drop: Drop | None = None
    fetched: Fetched | None = None
    image: ImageInfo | None = None
    faces: tuple[Face, ...] = ()

    @property
    def live(self) -> bool:
        """Whether later stages still have to look at it."""
        return self.drop is None and (not self.faces or any(f.drop is None for f in self.faces))

    @property
    def outcome(self) -> Outcome:
        """`kept` when at least one face was not dropped."""
        kept = self.drop is None and any(f.drop is None for f in self.faces)
        return Outcome.KEPT if kept else Outcome.DROPPED

    @property
    def final_drop(self) -> Drop | None:
        """The drop of the row: its own, or that of the face that got furthest (the largest
        of those that got equally far); None when a face was kept."""
        if self.drop is not None or self.outcome is Outcome.KEPT:
            return self.drop
        drops = [f.drop for f in sorted(self.faces, key=lambda f: f.rank) if f.drop is not None]
        return max(drops, key=lambda d: d.stage.order) if drops else None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SampleBatch:
    """A few samples of one shard (`read_rows.BATCH_SIZE`); the element of the whole line.

    `failure` is set when a stage met a defect that must fail the shard (see
    `transforms.railway`); later stages pass such a batch on untouched. `shard_rows` is set on the
    last batch of a shard whose spec does not know its rows: how many they were.
    """

    shard: ShardSpec
    samples: tuple[Sample, ...]
    failure: str | None = None
    shard_rows: int | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def nbytes(self) -> int:
        """Encoded image bytes held, in O(samples)."""
        return sum(len(s.fetched.body or b"") for s in self.samples if s.fetched)
