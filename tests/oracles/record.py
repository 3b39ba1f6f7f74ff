"""Records what the peers find on photographs, for the tests of our detectors.

Run in environments of their own (the peers' pins cannot be met beside ours), one with
facenet-pytorch 2.6.0 and one with insightface 2.1, which brings OpenCV 5.0:

    python record.py mtcnn DATA ASTRONAUT > mtcnn.json
    python record.py scrfd DATA ASTRONAUT scrfd_500m_bnkps.onnx > scrfd_500m.json
    python record.py scrfd DATA ASTRONAUT scrfd_2.5g.onnx > scrfd_2.5g.json
    python record.py yunet DATA ASTRONAUT yunet_n_dynamic.onnx > yunet.json

DATA is the folder of test images (photos/ and utkface/), ASTRONAUT scikit-image's astronaut.png.
An image enters as Pillow's RGB, upright, shrunk by whole-numbered block means until its long side
is at most 640 pixels, so that both sides can make the same array; its sha256 is recorded and
tested. Of the tight chips in utkface/ a seeded sample enters, padded by its edge pixels.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_SIDE = 640
MIN_FACE = 40
CHIPS = 60
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def shrink(rgb: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] by block means of k x k pixels, rounded half up; edges cut off."""
    k = -(-max(rgb.shape[:2]) // MAX_SIDE)
    h, w = rgb.shape[0] // k, rgb.shape[1] // k
    blocks = rgb[: h * k, : w * k].reshape(h, k, w, k, 3).astype(np.uint32)
    return ((blocks.sum(axis=(1, 3)) * 2 + k * k) // (2 * k * k)).astype(np.uint8)


def load(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.ascontiguousarray(
            shrink(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
        )


def pad(rgb: np.ndarray) -> np.ndarray:
    """A chip of nothing but a face, half its side added on each side by repeating its edge:
    the smooth surroundings of a portrait, without a border that no photograph has."""
    h, w = rgb.shape[0] // 2, rgb.shape[1] // 2
    return np.pad(rgb, ((h, h), (w, w), (0, 0)), mode="edge")


def images(data: Path, astronaut: Path):
    """Name and array of every image, in a fixed order."""
    photos = data / "photos"
    for file in sorted(photos.rglob("*")):
        if file.suffix.lower() in SUFFIXES:
            yield file.relative_to(photos).as_posix(), load(file)
    chips = sorted((data / "utkface").rglob("*.jpg"))
    for file in sorted(random.Random(0).sample(chips, CHIPS)):
        yield f"utkface/{file.name}", pad(load(file))
    yield "astronaut.png", load(astronaut)


def canvas(rgb: np.ndarray) -> np.ndarray:
    """The image in the top left of a black square of MAX_SIDE."""
    square = np.zeros((MAX_SIDE, MAX_SIDE, 3), np.uint8)
    square[: rgb.shape[0], : rgb.shape[1]] = rgb
    return square


def mtcnn():
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, min_face_size=MIN_FACE)

    def detect(rgb):
        boxes, scores, landmarks = detector.detect(rgb, landmarks=True)
        return ([], [], []) if boxes is None else (boxes, scores, landmarks)

    return detect


def scrfd(model):
    """insightface's own class and the model as it is, on a black canvas of 640 x 640, the only
    size that the smaller export takes; the image lies in its top left and is not resized."""
    from insightface.model_zoo.scrfd import SCRFD

    detector = SCRFD(model)
    detector.prepare(-1, det_thresh=0.5, nms_thresh=0.4)

    def detect(rgb):
        bgr = np.ascontiguousarray(canvas(rgb)[:, :, ::-1])
        found, landmarks = detector.detect(bgr, input_size=(MAX_SIDE, MAX_SIDE))
        return found[:, :4], found[:, 4], landmarks

    return detect


def yunet(model):
    import cv2

    detector = cv2.FaceDetectorYN.create(model, "", (MAX_SIDE, MAX_SIDE), 0.5, 0.3, 5000)

    def detect(rgb):
        detector.setInputSize((rgb.shape[1], rgb.shape[0]))
        _, found = detector.detect(np.ascontiguousarray(rgb[:, :, ::-1]))
        if found is None:
            return [], [], []
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)
        return boxes, found[:, 14], found[:, 4:14].reshape(-1, 5, 2)

    return detect


def main() -> None:
    kind, data, astronaut, *model = sys.argv[1:]
    detect = {"mtcnn": mtcnn, "scrfd": scrfd, "yunet": yunet}[kind](*model)
    lines = []
    for name, rgb in images(Path(data), Path(astronaut)):
        boxes, scores, landmarks = detect(rgb)
        found = {
            "sha256": hashlib.sha256(rgb).hexdigest(),
            "boxes": [[round(float(v), 2) for v in box] for box in boxes],
            "scores": [round(float(score), 4) for score in scores],
            "landmarks": [[[round(float(v), 1) for v in p] for p in face] for face in landmarks],
        }
        lines.append(f"{json.dumps(name)}: {json.dumps(found, separators=(',', ':'))}")
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
