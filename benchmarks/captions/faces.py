"""What the embedded attribute classifier says of real faces, run once and kept in a file.

CelebA's images are cropped to the classifier's alignment already. UTKFace's chips are padded
before MTCNN looks for the face in them, which is then aligned as a build aligns it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.detector_recall import MIN_SIDE, Scaled, chips, detector_path, load
from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.sample import Face
from facecap.transforms import align
from facecap.transforms.classify_attributes import (
    CELEBA_ALIGNMENT,
    AttributesOptions,
    Classifier,
    kept_labels,
)
from facecap.transforms.detectors import DETECTORS
from facecap.transforms.models import locate, model_hash

DETECTOR = "mtcnn"
BATCH = 256


@dataclass(frozen=True)
class Labelled:
    """Faces with what was said of each: `probabilities` float32 [faces, 40], `left_out` images
    without a face in their middle. `source` says whose they are."""

    source: str
    names: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def labels(self, options: AttributesOptions) -> list[tuple[str, ...]]:
        """The labels of each face, in the order of CelebA's attributes."""
        return [kept_labels(row, options) for row in self.probabilities]


def default_cache() -> Path:
    """Where the probabilities are kept: facecap-benchmarks in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "facecap-benchmarks"


def classifier_sha256() -> str:
    """The hash of the embedded classifier's file."""
    return model_hash(locate(AttributesOptions().model, None))


def classified(data: Path, cache: Path) -> Labelled:
    """The classifier's probabilities of all faces of CelebA and UTKFace under `data`.

    They are read from `cache`, where a run with the same classifier and as many images left them.
    Raises `facecap.transforms.models.ModelError`.
    """
    celeba = sorted((data / "celeba" / "images").glob("*.jpg"))
    utkface = sum(1 for _ in (data / "utkface").rglob("*.jpg"))
    file = cache / f"probabilities-{classifier_sha256()[:12]}-{len(celeba)}-{utkface}.npz"
    if not file.exists():
        _classify(celeba, data, utkface, file)
    with np.load(file) as kept:
        left_out = int(kept["left_out"])
        names = tuple(map(str, kept["names"]))
        source = f"CelebA ({len(celeba)}) and UTKFace ({len(names) - len(celeba)})"
        return Labelled(source, names, kept["probabilities"], left_out)


def _classify(celeba: list[Path], data: Path, utkface: int, file: Path) -> None:
    classifier = Classifier(AttributesOptions())
    found = [
        classifier.probabilities(np.stack([load(f) for f in celeba[i : i + BATCH]]))
        for i in range(0, len(celeba), BATCH)
    ]
    names = [f"celeba/{f.stem}" for f in celeba]
    aligned = list(_utkface_chips(data, utkface))
    for i, chip in enumerate(aligned):
        if chip is not None:
            found.append(classifier.probabilities(chip[None]))
            names.append(f"utkface/{i:04d}")
    left_out = sum(chip is None for chip in aligned)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part.npz")
    np.savez(unfinished, names=names, probabilities=np.concatenate(found), left_out=left_out)
    unfinished.replace(file)


def _utkface_chips(data: Path, count: int) -> Iterator[npt.NDArray[np.uint8] | None]:
    """UTKFace's faces as the classifier takes them; None where none is found."""
    if not count:
        return
    detector = Scaled.loaded(DETECTOR, detector_path(DETECTOR, None), MIN_SIDE)
    for _, rgb in chips(data, count):
        face = _middle_face(rgb, detector)
        yield None if face is None else align.align(rgb, face, CELEBA_ALIGNMENT)


def _middle_face(rgb: npt.NDArray[np.uint8], detector: Scaled) -> Face | None:
    """The best of the detected faces that pass a build's score and hold the middle of `rgb`."""
    found = detector.detect(rgb)
    middle = np.array([rgb.shape[1], rgb.shape[0]]) / 2
    holds = (found.boxes[:, :2] < middle).all(axis=1) & (found.boxes[:, 2:] > middle).all(axis=1)
    found = found.take(holds & (found.scores >= DETECTORS[DETECTOR].min_score))
    if not len(found.scores):
        return None
    best = int(found.scores.argmax())
    points = [(float(x), float(y)) for x, y in found.landmarks[best]]
    x0, y0, x1, y1 = map(float, found.boxes[best])
    return Face(
        rank=0,
        box=(x0, y0, x1, y1),
        score=float(found.scores[best]),
        landmarks=(points[0], points[1], points[2], points[3], points[4]),
    )


def annotated(data: Path) -> Labelled:
    """CelebA's attribute file under `data`, as probabilities of 0 and 1."""
    with (data / "celeba" / "attributes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = np.array([[float(row[name]) for name in ATTRIBUTES] for row in rows], np.float32)
    return Labelled("CelebA's attribute file", tuple(r["image_id"] for r in rows), values)
