import hashlib
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import facecap.transforms

WEIGHTS = Path(facecap.transforms.__path__[0]) / "weights" / "attributes.onnx"


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(WEIGHTS, providers=["CPUExecutionProvider"])


def area_under_roc(score: np.ndarray, label: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order; ties count one half."""
    difference = score[label == 1][:, None] - score[label == 0][None]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_file_is_small_and_self_contained(session: onnxruntime.InferenceSession) -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000
    labels = session.get_modelmeta().custom_metadata_map["labels"].split(",")
    assert len(set(labels)) == 40
    assert (labels[0], labels[20], labels[39]) == ("5_o_Clock_Shadow", "Male", "Young")


def test_card_names_this_file() -> None:
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert digest in WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")


def test_input_and_output(session: onnxruntime.InferenceSession) -> None:
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.type) == ("rgb_0_255", "tensor(float)")
    assert source.shape[1:] == [3, 109, 89]
    assert isinstance(source.shape[0], str)
    assert (result.name, result.type) == ("prob", "tensor(float)")
    assert result.shape[1:] == [40]


def test_an_image_gives_the_same_alone_and_in_a_batch(
    session: onnxruntime.InferenceSession,
) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (16, 3, 11, 9)).astype(np.float32)
    rgb = coarse.repeat(10, 2).repeat(10, 3)[:, :, :109, :89]
    together = session.run(["prob"], {"rgb_0_255": rgb})[0]
    alone = np.concatenate([session.run(["prob"], {"rgb_0_255": x[None]})[0] for x in rgb])
    assert together.shape == (16, 40)
    assert 0 <= together.min() < together.max() <= 1
    assert np.ptp(together, axis=0).max() > 0.05  # it does look at the image
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.skipif(
    "FACECAP_TEST_DATA" not in os.environ, reason="FACECAP_TEST_DATA is unset (CelebA images)"
)
def test_mean_auc_on_the_unseen_images(session: onnxruntime.InferenceSession) -> None:
    folder = Path(os.environ["FACECAP_TEST_DATA"]) / "celeba"
    lines = (folder / "attributes.csv").read_text().splitlines()
    names, rows = lines[0].split(",")[1:], [line.split(",") for line in lines[7001:8001]]
    assert names == session.get_modelmeta().custom_metadata_map["labels"].split(",")
    assert (rows[0][0], rows[-1][0]) == ("007001.jpg", "008000.jpg")
    labels = np.array([[int(value) for value in row[1:]] for row in rows])
    prob = []
    for row in rows:
        with Image.open(folder / "images" / row[0]) as image:
            rgb = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)[None]
        prob.append(session.run(["prob"], {"rgb_0_255": rgb})[0][0])
    scores = np.array(prob)
    mean = np.mean([area_under_roc(scores[:, k], labels[:, k]) for k in range(40)])
    assert mean >= 0.88
