import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from facecap.transforms.detectors import Detector, one_pass, scrfd, yunet
from facecap.transforms.detectors.detections import Detections
from facecap.transforms.detectors.one_pass import (
    CALLS,
    CORE,
    MARGIN,
    OnePass,
    detect_in_tiles,
    free_input_size,
)
from facecap.transforms.detectors.scrfd import Scrfd
from facecap.transforms.detectors.yunet import YuNet
from facecap.transforms.models import ModelError
from facecap.transforms.onnx_session import onnx_session
from tests.oracles.record import load as load_image
from tests.transforms.detectors.conftest import ASTRONAUT
from tests.transforms.detectors.graphs import SPOILT, one_pass_graph, spoil

KINDS = pytest.mark.parametrize(
    ("detector", "form"), [(Scrfd, scrfd.FORM), (YuNet, yunet.FORM)], ids=["scrfd", "yunet"]
)
FILES = {
    "scrfd/scrfd_500m_bnkps.onnx": (Scrfd, scrfd.FORM),
    "scrfd/scrfd_2.5g.onnx": (Scrfd, scrfd.FORM),
    "yunet/yunet_n_dynamic.onnx": (YuNet, yunet.FORM),
}


def load(detector: type[Detector], data: bytes) -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        path.write_bytes(data)
        return detector(path, "cpu", 32)


@KINDS
def test_a_model_of_another_kind_is_refused(detector, form):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    with pytest.raises(ModelError, match=rf"m\.onnx is no {form.name}: .* 1 outputs"):
        load(detector, helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="not an ONNX model"):
        load(detector, b"not a model at all")


def test_outputs_of_other_names_are_refused():
    model = one_pass_graph(yunet.FORM)
    model.graph.node[2].output[0] = model.graph.output[0].name = "class_8"
    with pytest.raises(ModelError, match=r"m\.onnx is no YuNet: outputs of other names"):
        load(YuNet, model.SerializeToString())


@KINDS
@SPOILT
def test_a_spoilt_graph_is_one_line(detector, form, how):
    model = one_pass_graph(form)
    rgb = np.zeros((70, 90, 3), np.uint8)
    assert len(load(detector, model.SerializeToString()).detect(rgb)) == 0
    spoil(model, how)
    with pytest.raises(ModelError, match=r"m\.onnx (is no|cannot be run)") as error:
        load(detector, model.SerializeToString())
    assert "\n" not in str(error.value)


def any_damage(data, detector, form) -> None:
    body = bytearray(one_pass_graph(form).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        damaged = load(detector, bytes(body))
    except ModelError as error:
        assert len(str(error)) < 400 and "\n" not in str(error)
    else:
        damaged.detect(np.zeros((64, 64, 3), np.uint8))


@KINDS
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_model_is_an_error_or_a_detector(detector, form, data):
    any_damage(data, detector, form)


@pytest.mark.long
@KINDS
@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_much_damage_to_a_model(detector, form, data):
    any_damage(data, detector, form)


@pytest.mark.parametrize("file", FILES)
def test_the_freed_graph_gives_what_the_original_gives(test_models, file):
    original = test_models / file
    model = onnx.load(original)
    free_input_size(model, FILES[file][1].widths)
    free = onnx_session(model.SerializeToString())
    image = np.random.default_rng(0).normal(size=(1, 3, 640, 640)).astype(np.float32)
    name = model.graph.input[0].name
    expected = onnx_session(original).run(None, {name: image})
    for ours, theirs in zip(free.run(None, {name: image}), expected, strict=True):
        assert np.allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-5)
    # Batch, height and width are free, and an image's answer does not depend on its batch.
    batch = np.random.default_rng(1).normal(size=(3, 3, 96, 160)).astype(np.float32)
    alone = free.run(None, {name: batch[1:2]})
    for many, one in zip(free.run(None, {name: batch}), alone, strict=True):
        assert many.shape[0] == 3 and np.allclose(many[1], one[0], rtol=1e-4, atol=1e-5)


def test_a_yunet_of_fixed_input_size_is_freed(test_models, tmp_path):
    """OpenCV's file is one; here one is made of the free export, its sizes folded."""
    original, fixed = test_models / "yunet" / "yunet_n_dynamic.onnx", tmp_path / "fixed.onnx"
    options = ort.SessionOptions()
    for name, size in (("batch", 1), ("height", 640), ("width", 640)):
        options.add_free_dimension_override_by_name(name, size)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(fixed)
    ort.InferenceSession(original, options, ["CPUExecutionProvider"])
    folded = onnx.load(fixed)
    assert "Shape" not in {node.op_type for node in folded.graph.node}  # or nothing is tested
    rgb = load_image(ASTRONAUT)
    ours, theirs = (YuNet(path, "cpu", 16).detect(rgb) for path in (fixed, original))
    assert len(ours) == len(theirs) == 1
    assert np.allclose(ours.boxes, theirs.boxes, atol=0.01)
    assert np.allclose(ours.landmarks, theirs.landmarks, atol=0.01)


@pytest.mark.parametrize("file", FILES)
def test_any_image_can_be_looked_at(test_models, file):
    detector = FILES[file][0](test_models / file, "cpu", 16)
    rgb = load_image(ASTRONAUT)
    for shape in ((512, 512), (300, 280), (1, 1), (3, 500)):
        found = detector.detect(np.ascontiguousarray(rgb[: shape[0], : shape[1]]))
        assert len(found) == (shape[0] > 200)


@pytest.mark.parametrize("file", FILES)
def test_tiles_find_what_the_whole_image_holds(test_models, file, monkeypatch):
    detector = FILES[file][0](test_models / file, "cpu", 16)
    rgb = np.tile(load_image(ASTRONAUT), (2, 2, 1))
    whole = detector.detect(rgb)
    monkeypatch.setattr(one_pass, "CORE", 256)
    monkeypatch.setattr(one_pass, "MARGIN", 128)
    tiled = detector.detect(rgb)
    assert len(whole) == len(tiled) == 4
    for box, score in zip(whole.boxes, whole.scores, strict=True):
        i = np.abs(tiled.boxes - box).sum(axis=1).argmin()
        assert tiled.boxes[i] == pytest.approx(box, abs=3)
        assert tiled.scores[i] == pytest.approx(score, abs=0.05)


def bright_dots(rgb: np.ndarray) -> Detections:
    """A detector that finds each white pixel, as a box of one pixel around its corner."""
    y, x = np.nonzero(rgb[:, :, 0] == 255)
    boxes = np.stack([x - 0.5, y - 0.5, x + 0.5, y + 0.5], axis=1).astype(np.float32)
    return Detections(boxes, np.ones(len(x), np.float32), np.zeros((len(x), 5, 2), np.float32))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_face_of_a_large_image_is_found_once_where_it_is(data):
    height, width = (data.draw(st.sampled_from([1, 40, 64, 65, 100, 150])) for _ in range(2))
    dots = data.draw(st.sets(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))))
    rgb = np.zeros((height, width, 3), np.uint8)
    for y, x in dots:
        rgb[y, x] = 255
    seen = []

    def detect(parts):
        seen.extend(part.shape for part in parts)
        return [bright_dots(part) for part in parts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_pass, "CORE", 32)
        patch.setattr(one_pass, "MARGIN", 16)
        before, found, after = detect_in_tiles([rgb[:1, :1], rgb, rgb[:1, :1]], detect)
    assert len(before) == len(after) == ((0, 0) in dots)
    assert sorted((y + 0.5, x + 0.5) for x, y in found.boxes[:, :2].tolist()) == sorted(dots)
    assert max(max(shape[:2]) for shape in seen) <= 64
    assert (len(seen) == 3) == (max(height, width) <= 64)


def test_tiles_keep_to_the_grid_of_the_network():
    assert CORE % 32 == MARGIN % 32 == 0


def canvases_of(network: OnePass, images: list[np.ndarray]) -> list[np.ndarray]:
    """What the network is given of each image: [3, h, w]."""
    given: list[np.ndarray] = [np.empty(0)] * len(images)
    for _, shape, chosen in network._grouped(images):
        canvases = network._canvases([images[i] for i in chosen], shape)
        assert canvases.shape == (shape[0], 3, *shape[1:])
        for i, canvas in zip(chosen, canvases, strict=False):
            given[i] = canvas.copy()
    return given


@pytest.mark.parametrize("calls", [(), ((64, 3), (96, 2), (224, 1))])
def test_the_canvas_is_black_beyond_the_image(tmp_path, monkeypatch, calls):
    monkeypatch.setitem(CALLS, "cpu", calls)
    path = tmp_path / "scrfd.onnx"
    onnx.save(one_pass_graph(scrfd.FORM), path)
    network = OnePass(path, "cpu", scrfd.FORM)
    rng = np.random.default_rng(0)
    # The memory is used again: what was there before must not be seen.
    shapes = ((70, 90), (33, 31), (64, 64), (1, 1), (200, 10), (9, 60), (96, 2), (65, 65))
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    for shape, rgb, canvas in zip(shapes, images, canvases_of(network, images), strict=True):
        height, width = canvas.shape[1:]
        assert height % 32 == width % 32 == 0
        if calls:
            assert height == width == min(side for side, _ in calls if side >= max(shape))
        else:
            assert 0 <= height - shape[0] < 32 and 0 <= width - shape[1] < 32
        expected = np.zeros((height, width, 3), np.float32)
        expected[: shape[0], : shape[1]] = rgb
        assert np.array_equal(canvas, ((expected - 127.5) / 128).transpose(2, 0, 1))
