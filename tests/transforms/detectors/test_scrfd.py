import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facecap.transforms import models
from facecap.transforms.detectors.scrfd import Scrfd, decode, free_input_size
from tests.transforms.detectors.agreement import compare
from tests.transforms.detectors.conftest import oracle_image, recorded


def outputs(width: int, height: int) -> list[np.ndarray]:
    """Nine outputs of a canvas on which nothing is found."""
    cells = [2 * (width // s) * (height // s) for s in (8, 16, 32)]
    return [np.zeros((n, k), np.float32) for k in (1, 4, 10) for n in cells]


def test_decoding_by_hand():
    made = outputs(96, 64)
    anchor = (3 * (96 // 16) + 2) * 2 + 1  # stride 16, row 3, column 2, second anchor
    made[1][anchor] = 0.8
    made[4][anchor] = [1, 0.5, 2, 1.5]
    made[7][anchor] = [0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1]
    found = decode(made, 96)
    assert found.boxes.tolist() == [[32 - 16, 48 - 8, 32 + 32, 48 + 24]]
    assert found.scores == pytest.approx([0.8])
    assert found.landmarks.tolist() == [[[32, 48], [48, 48], [40, 56], [32, 64], [48, 64]]]


def test_nothing_found():
    assert len(decode(outputs(64, 64), 64)) == 0


def test_a_model_of_another_kind_is_refused(tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(models.ModelError, match=r"relu\.onnx is no SCRFD .* 1 outputs"):
        Scrfd(path, "cpu", 32)
    path.write_bytes(b"not a model at all")
    with pytest.raises(models.ModelError, match="not an ONNX model"):
        Scrfd(path, "cpu", 32)


@pytest.mark.parametrize("file", ["scrfd_500m_bnkps.onnx", "scrfd_2.5g.onnx"])
def test_the_freed_graph_gives_what_the_original_gives(test_models, file):
    original = test_models / "scrfd" / file
    model = onnx.load(original)
    free_input_size(model)
    free = models.onnx_session(model.SerializeToString())
    image = np.random.default_rng(0).normal(size=(1, 3, 640, 640)).astype(np.float32)
    name = model.graph.input[0].name
    expected = models.onnx_session(original).run(None, {name: image})
    for ours, theirs in zip(free.run(None, {name: image}), expected, strict=True):
        assert np.allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-5)
    # Batch, height and width are free, and an image's answer does not depend on its batch.
    batch = np.random.default_rng(1).normal(size=(3, 3, 96, 160)).astype(np.float32)
    alone = free.run(None, {name: batch[1:2]})
    for many, one in zip(free.run(None, {name: batch}), alone, strict=True):
        assert many.shape[0] == 3 and np.allclose(many[1], one[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
def test_agrees_with_insightface(test_data, test_models, step):
    record = recorded("scrfd_2.5g.json")
    detector = Scrfd(test_models / "scrfd" / "scrfd_2.5g.onnx", "cpu", 16)
    images = {name: oracle_image(test_data / "photos", name) for name in list(record)[::step]}
    agreement = compare(detector, images, record)
    assert agreement.faces > 150 // step - 10
    assert agreement.alike >= 0.99 * agreement.faces
    assert agreement.extra <= 0.01 * agreement.faces


def test_finds_the_same_faces_without_insightface_canvas(test_models):
    detector = Scrfd(test_models / "scrfd" / "scrfd_500m_bnkps.onnx", "cpu", 16)
    rgb = oracle_image(None, "astronaut.png")
    for shape in ((512, 512), (300, 280), (1, 1), (3, 700)):
        found = detector.detect(np.ascontiguousarray(rgb[: shape[0], : shape[1]]))
        assert len(found) == (shape[0] > 200)
