"""A loop over insightface's SCRFD as its users write one, over pictures that are decoded already:
one at a time at 640 x 640. Runs in the peers' environment; prints one JSON object.

    python scrfd_images.py MODEL cpu|cuda PICTURES.npz
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from insightface.model_zoo import get_model

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def main(model: str, provider: str, pictures: str) -> None:
    detector = get_model(model, providers=[PROVIDERS[provider]])
    if detector.session.get_providers()[0] != PROVIDERS[provider]:
        sys.exit(f"{provider} could not be started in the peers' environment")
    detector.prepare(0 if provider == "cuda" else -1, input_size=(640, 640))
    with np.load(pictures) as file:
        images = [np.ascontiguousarray(file[name][:, :, ::-1]) for name in file.files]
    detector.detect(images[0])  # allocates and plans; not a part of the time
    started = time.perf_counter()
    for image in images:
        detector.detect(image)
    print(json.dumps({"images": len(images), "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
