"""Records what the peers find on photographs, for the tests of our detectors.

Run in an environment of its own (the peers' pins cannot be met beside ours), once with
facenet-pytorch 2.6.0 and once with insightface 2.1:

    python record.py mtcnn PHOTOS ASTRONAUT > mtcnn.json
    python record.py scrfd PHOTOS ASTRONAUT scrfd_2.5g.onnx > scrfd_2.5g.json

PHOTOS is the folder of test photographs, ASTRONAUT a folder with scikit-image's astronaut.png
alone; the model's input size must be free, or insightface resizes to its own. An image enters
as Pillow's RGB, upright, shrunk by whole-numbered block means until its long side is at most
1,000 pixels, so that both sides can make the same array; its sha256 is recorded and tested.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_SIDE = 1000
MIN_FACE = 40
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def shrink(rgb: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] by block means of k x k pixels, rounded half up; edges cut off."""
    k = -(-max(rgb.shape[:2]) // MAX_SIDE)
    h, w = rgb.shape[0] // k, rgb.shape[1] // k
    blocks = rgb[: h * k, : w * k].reshape(h, k, w, k, 3).astype(np.uint32)
    return ((blocks.sum(axis=(1, 3)) * 2 + k * k) // (2 * k * k)).astype(np.uint8)


def load(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return shrink(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


def mtcnn():
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, min_face_size=MIN_FACE)

    def detect(rgb):
        boxes, scores, landmarks = detector.detect(rgb, landmarks=True)
        return ([], [], []) if boxes is None else (boxes, scores, landmarks)

    return detect


def scrfd(model):
    """insightface's own class, on a black canvas that is a multiple of 64 (its prepare() only
    knows one fixed size; the image is not resized)."""
    from insightface.model_zoo.scrfd import SCRFD

    detector = SCRFD(model)
    detector.prepare(-1, det_thresh=0.5, nms_thresh=0.4)

    def detect(rgb):
        height, width = (-(-n // 64) * 64 for n in rgb.shape[:2])
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[: rgb.shape[0], : rgb.shape[1]] = rgb[:, :, ::-1]
        detector.center_cache.clear()
        found, landmarks = detector.detect(canvas, input_size=(width, height))
        return found[:, :4], found[:, 4], landmarks

    return detect


def main() -> None:
    kind, photos, astronaut, *model = sys.argv[1:]
    detect = {"mtcnn": mtcnn, "scrfd": scrfd}[kind](*model)
    record = {}
    folders = [Path(photos), Path(astronaut)]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*"))]
    for folder, file in files:
        if file.suffix.lower() not in SUFFIXES:
            continue
        rgb = load(file)
        boxes, scores, landmarks = detect(rgb)
        record[file.relative_to(folder).as_posix()] = {
            "sha256": hashlib.sha256(np.ascontiguousarray(rgb)).hexdigest(),
            "boxes": [[round(float(v), 3) for v in box] for box in boxes],
            "scores": [round(float(score), 5) for score in scores],
            "landmarks": [[[round(float(v), 2) for v in p] for p in face] for face in landmarks],
        }
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in record.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
