import json
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.record import SUFFIXES, load

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


def recorded(name: str) -> dict[str, dict]:
    """What a peer found, by image name (see tests/oracles/record.py)."""
    return json.loads((Path(__file__).parents[2] / "oracles" / name).read_text())


def oracle_image(photos: Path | None, name: str) -> np.ndarray | None:
    """The array that the peer was given; None where the photographs are not there."""
    import skimage

    assert Path(name).suffix.lower() in SUFFIXES
    if name == "astronaut.png":
        return load(Path(skimage.__file__).parent / "data" / name)
    return None if photos is None else load(photos / name)
