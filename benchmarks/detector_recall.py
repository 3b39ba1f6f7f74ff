"""Recall of the detectors at the scales that the size filter picks.

    python -m benchmarks.detector_recall DATA [--models FOLDER] [--detector NAME] ...

DATA is the folder of test images (photos/ and utkface/), FOLDER that of optional ONNX models.
For each detector three tables: faces of crop.min_side and crop.min_score found at the filter's
scale, by size of the face and for photographs enlarged and reduced; the boxes of photos/group;
and padded chips of utkface/ by gender and race. Needs no network; a few CPU minutes.
"""

from __future__ import annotations

import argparse
import random
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from facecap.transforms import models
from facecap.transforms.detectors import DETECTORS, Detections, Detector

MIN_SIDE = 128
ZOOMS = (0.5, 1.0, 1.5, 2.0, 3.0)
MAX_PIXELS = 6_000_000
"""Photographs enlarged to more are left out: full scale takes seconds for each."""
PART = 0.3
"""A box seen at full scale only, of which this share lies in a face seen at the filter's scale,
is a part of that face."""
CLASSES = (128, 192, 256, 384, 512, 10**9)
FILES = {
    "scrfd-500m": "scrfd/scrfd_500m_bnkps.onnx",
    "scrfd-2.5g": "scrfd/scrfd_2.5g.onnx",
    "yunet": "yunet/yunet_n_dynamic.onnx",
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

RGB = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]


def load(file: Path) -> RGB:
    """The upright photograph, uint8 RGB [h, w, 3]."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def photographs(data: Path) -> list[Path]:
    return sorted(f for f in (data / "photos").rglob("*") if f.suffix.lower() in SUFFIXES)


def detector_path(name: str, folder: Path | None) -> Path:
    """The detector's file in `folder`, or the fetched one. Raises ModelError."""
    known = None if folder is None or name not in FILES else str(folder / FILES[name])
    return models.locate(name, known)


def resized(rgb: RGB, zoom: float) -> RGB:
    if zoom == 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * zoom)), max(1, round(rgb.shape[0] * zoom)))
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8)


class Scaled:
    """A detector as the build uses it: on the image shrunk until `min_side` is its min_face."""

    def __init__(self, name: str, detector: Detector, min_side: int) -> None:
        """`detector` was loaded for faces of min_side * scale_of(...) pixels."""
        self.scale = self.scale_of(name, min_side)
        self.detector = detector

    @staticmethod
    def scale_of(name: str, min_side: int) -> float:
        return min(1.0, DETECTORS[name].min_face / min_side)

    @classmethod
    def loaded(cls, name: str, path: Path, min_side: int) -> Scaled:
        smallest = max(1, round(min_side * cls.scale_of(name, min_side)))
        return cls(name, DETECTORS[name].detector(path, "cpu", smallest), min_side)

    def detect(self, rgb: RGB) -> Detections:
        """All faces in the pixels of `rgb`."""
        small = resized(rgb, self.scale)
        found = self.detector.detect(small)
        zoom = np.array([rgb.shape[1] / small.shape[1], rgb.shape[0] / small.shape[0]], np.float32)
        return Detections(found.boxes * np.tile(zoom, 2), found.scores, found.landmarks * zoom)


def sides(boxes: Boxes) -> npt.NDArray[np.float32]:
    """Short sides of the boxes."""
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1)


def ious(a: Boxes, b: Boxes) -> npt.NDArray[np.float32]:
    """[len(a), len(b)]."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner, 0, None).prod(axis=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared)


def matched(boxes: Boxes, found: Boxes, overlap: float = 0.5) -> npt.NDArray[np.bool_]:
    """Which of `boxes` have one of `found` over them."""
    if not len(found) or not len(boxes):
        return np.zeros(len(boxes), bool)
    return ious(boxes, found).max(axis=1) >= overlap


def shares(boxes: Boxes, faces: Boxes) -> npt.NDArray[np.float32]:
    """The largest share of each of `boxes` that lies in one of `faces`."""
    if not len(boxes) or not len(faces):
        return np.zeros(len(boxes), np.float32)
    corner = np.maximum(boxes[:, None, :2], faces[None, :, :2])
    shared = np.clip(np.minimum(boxes[:, None, 2:], faces[None, :, 2:]) - corner, 0, None)
    return (shared.prod(axis=2) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]).max(axis=1)


@dataclass
class Recall:
    """Faces of the union of full scale and filter scale that pass the filter, by size class, and
    how many of them each finds (at any score and size that it gives)."""

    faces: Counter[int] = field(default_factory=Counter)
    at_filter: Counter[int] = field(default_factory=Counter)
    at_full: Counter[int] = field(default_factory=Counter)
    parts: int = 0
    missed: list[tuple[str, list[int], float]] = field(default_factory=list)

    def add(self, name: str, small: Detections, full: Detections, min_score: float) -> None:
        passing = [
            found.take((sides(found.boxes) >= MIN_SIDE) & (found.scores >= min_score))
            for found in (small, full)
        ]
        # Both name the same face: the filter scale's box stands for it.
        only_full = passing[1].take(~matched(passing[1].boxes, passing[0].boxes))
        # At full scale an eye or a chin of a large face is taken for a face (looked at).
        part = shares(only_full.boxes, small.boxes) >= PART
        self.parts += int(part.sum())
        union = Detections.joined([passing[0], only_full.take(~part)])
        by_filter = matched(union.boxes, small.boxes)
        by_full = matched(union.boxes, full.boxes)
        for box, score, side, filtered, complete in zip(
            union.boxes, union.scores, sides(union.boxes), by_filter, by_full, strict=True
        ):
            group = next(limit for limit in CLASSES[1:] if side < limit)
            self.faces[group] += 1
            self.at_filter[group] += bool(filtered)
            self.at_full[group] += bool(complete)
            if not filtered:
                self.missed.append((name, box.round().astype(int).tolist(), round(float(score), 3)))


def recall(
    scaled: Scaled, full: Detector, min_score: float, files: list[Path], zoom: float
) -> Recall:
    table = Recall()
    for file in files:
        rgb = load(file)
        if zoom > 1 and rgb.shape[0] * rgb.shape[1] * zoom**2 > MAX_PIXELS:
            continue
        rgb = resized(rgb, zoom)
        table.add(file.name, scaled.detect(rgb), full.detect(rgb), min_score)
    return table


def group_boxes(data: Path, min_side: int = 40) -> Iterator[tuple[Path, Boxes]]:
    """Each photograph of photos/group with its boxes whose short side is at least `min_side`."""
    folder = data / "photos" / "group"
    for image in ET.parse(folder / "boxes.xml").getroot().iter("image"):
        boxes = [
            [int(box.attrib[k]) for k in ("left", "top", "width", "height")]
            for box in image.iter("box")
        ]
        array = np.array(boxes, np.float32)
        array[:, 2:] += array[:, :2]
        yield folder / image.attrib["file"], array[sides(array) >= min_side]


def group_missed(name: str, path: Path, data: Path) -> tuple[int, list[str]]:
    """How many boxes there are, and those not found when asked for faces of 40 pixels."""
    scaled, missed, count = Scaled.loaded(name, path, 40), [], 0
    for file, boxes in group_boxes(data):
        found = scaled.detect(load(file))
        good = found.take(found.scores >= DETECTORS[name].min_score)
        hits, passing = (matched(boxes, f.boxes, 0.4) for f in (found, good))
        count += len(boxes)
        for box, hit, passed in zip(boxes, hits, passing, strict=True):
            if not passed:
                why = "not found" if not hit else "score too low"
                missed.append(f"{file.name} {box.astype(int).tolist()} {why}")
    return count, missed


RACES = ("White", "Black", "Asian", "Indian", "other")


def chips(data: Path, count: int) -> Iterator[tuple[str, RGB]]:
    """Group (gender and race, as UTKFace labels them) and padded pixels of a seeded sample of
    its chips: half the chip's side on each side, of the mean colour of its edge, as before a
    plain wall. (Edge pixels repeated are stripes, which no photograph has.)"""
    files = sorted((data / "utkface").rglob("*.jpg"))
    for file in sorted(random.Random(1).sample(files, min(count, len(files)))):
        _, gender, race, *_ = file.name.split("_")
        rgb = load(file)
        h, w = rgb.shape[0] // 2, rgb.shape[1] // 2
        padded = np.empty((2 * h + rgb.shape[0], 2 * w + rgb.shape[1], 3), np.uint8)
        padded[:] = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).mean(axis=0)
        padded[h:-h, w:-w] = rgb
        yield f"{('man', 'woman')[int(gender)]}, {RACES[int(race)]}", padded


def print_recall(table: Recall, zoom: float, seconds: float) -> None:
    counters = (table.at_filter, table.at_full, table.faces)
    sums = "/".join(str(counter.total()) for counter in counters)
    print(f"  x{zoom}: filter/full/union {sums}   ({seconds:.0f} CPU s)")
    for limit in CLASSES[1:]:
        label = f"under {limit} px" if limit < 10**9 else "larger"
        print(f"     {label}: {'/'.join(str(counter[limit]) for counter in counters)}")
    print(f"     parts of faces seen at full scale only: {table.parts}")
    for miss in table.missed:
        print("     missed:", *miss)


def print_chips(scaled: Scaled, min_score: float, data: Path, count: int) -> None:
    found_of, passed_of, total_of = Counter[str](), Counter[str](), Counter[str]()
    for group, rgb in chips(data, count):
        found = scaled.detect(rgb)
        centre = rgb.shape[0] / 2
        corners = (found.boxes[:, :2] < centre) & (found.boxes[:, 2:] > centre)
        inside = corners.all(axis=1)
        total_of[group] += 1
        found_of[group] += bool(inside.any())
        passed_of[group] += bool((inside & (found.scores >= min_score)).any())
    counters = (found_of, passed_of, total_of)
    print("  chips found/of min_score/all:", "/".join(str(c.total()) for c in counters))
    for group in sorted(total_of):
        print(f"     {group}: {'/'.join(str(c[group]) for c in counters)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--detector", action="append")
    parser.add_argument("--zoom", type=float, action="append")
    parser.add_argument("--step", type=int, default=1, help="of the photographs, every so many")
    parser.add_argument("--chips", type=int, default=2000)
    arguments = parser.parse_args()
    files = photographs(arguments.data)[:: arguments.step]
    for name in arguments.detector or ["mtcnn", *FILES]:
        kind, path = DETECTORS[name], detector_path(name, arguments.models)
        scaled = Scaled.loaded(name, path, MIN_SIDE)
        full = kind.detector(path, "cpu", max(20, kind.min_face))
        passing = f"faces >= {MIN_SIDE} px, score >= {kind.min_score}"
        print(f"\n{name}: scale {scaled.scale:.3f}, {passing}")
        for zoom in arguments.zoom or ZOOMS:
            start = time.process_time()
            table = recall(scaled, full, kind.min_score, files, zoom)
            print_recall(table, zoom, time.process_time() - start)
        count, missed = group_missed(name, path, arguments.data)
        print(f"  group boxes of 40 px and more: {count - len(missed)}/{count}")
        print(*(f"     {miss}" for miss in missed), sep="\n", flush=True)
        print_chips(scaled, kind.min_score, arguments.data, arguments.chips)


if __name__ == "__main__":
    main()
