from typing import Any

import numpy as np

from facecap.training.neighbours import has_neighbour


class MeanColour:
    """Stands for an embedding: the mean colour of the middle of the face, about grey."""

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "face"})()]

    def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feed["face"].shape == (1, 3, 112, 112)
        return [feed["face"][:, :, 40:70, 40:70].mean((2, 3)) - 128]


def test_only_the_alike_have_a_neighbour() -> None:
    def plain(*colour: int) -> np.ndarray:
        return np.full((1, 109, 89, 3), colour, np.uint8)

    others = np.concatenate([plain(250, 10, 10), plain(10, 250, 10)])
    images = np.concatenate([plain(240, 30, 30), plain(10, 10, 250)])
    assert has_neighbour(MeanColour(), images, others).tolist() == [True, False]
