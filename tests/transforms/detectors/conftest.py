import os
from pathlib import Path

import numpy as np
import pytest
import skimage

from facecap.transforms import models
from facecap.transforms.detectors import DETECTORS, Detector

ASTRONAUT = Path(skimage.__file__).parent / "data" / "astronaut.png"

FILES = {
    "scrfd-500m": "scrfd/scrfd_500m_bnkps.onnx",
    "scrfd-2.5g": "scrfd/scrfd_2.5g.onnx",
    "yunet": "yunet/yunet_n_dynamic.onnx",
}
"""In the folder of optional test models; MTCNN is fetched."""

SHAPES = {
    "pnet": {"conv1": (10, 3, 3, 3), "conv2": (16, 10, 3, 3), "conv3": (32, 16, 3, 3),
             "conv4_1": (2, 32, 1, 1), "conv4_2": (4, 32, 1, 1)},
    "rnet": {"conv1": (28, 3, 3, 3), "conv2": (48, 28, 3, 3), "conv3": (64, 48, 2, 2),
             "dense4": (128, 576), "dense5_1": (2, 128), "dense5_2": (4, 128)},
    "onet": {"conv1": (32, 3, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3),
             "conv4": (128, 64, 2, 2), "dense5": (256, 1152), "dense6_1": (2, 256),
             "dense6_2": (4, 256), "dense6_3": (10, 256)},
}  # fmt: skip


@pytest.fixture(scope="session")
def mtcnn_weights_made() -> dict[str, dict[str, np.ndarray]]:
    """Random weights in the shapes of MTCNN's networks: they find something, anything."""
    rng = np.random.default_rng(0)
    made: dict[str, dict[str, np.ndarray]] = {}
    for network, layers in SHAPES.items():
        made[network] = weights = {}
        for name, shape in layers.items():
            fan_in = int(np.prod(shape[1:]))
            weights[f"{name}.weight"] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
            weights[f"{name}.bias"] = rng.normal(0, 0.1, shape[:1]).astype(np.float32)
            if "_" not in name:
                slope = np.full(shape[:1], 0.25, np.float32)
                weights[f"prelu{name[-1]}.weight"] = slope
    return made


def load_detector(name: str, min_face: int) -> Detector:
    """Any of the detectors, or the test is skipped where its file is not there."""
    path = None
    if name in FILES:
        folder = os.environ.get("FACECAP_TEST_MODELS")
        if not folder:
            pytest.skip("FACECAP_TEST_MODELS is not set")
        path = str(Path(folder, FILES[name]))
    try:
        return DETECTORS[name].detector(models.locate(name, path), "cpu", min_face)
    except models.ModelError as error:
        pytest.skip(str(error))
