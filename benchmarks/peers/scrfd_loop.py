"""A loop over insightface's SCRFD as its users write one: every photograph of img2dataset's tars,
detection at 640 x 640. Runs in the peers' environment; prints one JSON object.

    python scrfd_loop.py MODEL THREADS OUTPUT.json TAR...

THREADS 0 leaves ONNX Runtime's default (all cores). OUTPUT.json gets, for each photograph, its
URL, sizes and all detections in its own pixels.
"""

from __future__ import annotations

import json
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from insightface.model_zoo import get_model
from insightface.model_zoo.scrfd import SCRFD

INPUT = (640, 640)


def load(model: str, threads: int) -> SCRFD:
    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
        cv2.setNumThreads(threads)
    detector = get_model(model, sess_options=options, providers=["CPUExecutionProvider"])
    detector.prepare(-1, input_size=INPUT)
    detector.detect(np.zeros((640, 640, 3), np.uint8))  # allocates; not a part of the time
    return detector


def main(model: str, threads: str, output: str, *tars: str) -> None:
    detector = load(model, int(threads))
    photos = []
    started = time.time()
    for path in tars:
        with tarfile.open(path) as tar:
            body = b""
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None  # img2dataset stores files only
                data = file.read()
                if member.name.endswith(".jpg"):
                    body = data
                elif member.name.endswith(".json"):
                    about = json.loads(data)
                    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
                    assert image is not None  # it wrote this JPEG itself
                    found, _ = detector.detect(image)
                    height, width = image.shape[:2]
                    zoom = [about["original_width"] / width, about["original_height"] / height] * 2
                    photos.append(
                        {
                            "url": about["url"],
                            "size": [about["original_width"], about["original_height"]],
                            "boxes": (found[:, :4] * zoom).tolist(),
                            "scores": found[:, 4].tolist(),
                        }
                    )
    ended = time.time()
    Path(output).write_text(json.dumps({"started": started, "ended": ended, "photos": photos}))
    print(json.dumps({"images": len(photos), "seconds": ended - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
