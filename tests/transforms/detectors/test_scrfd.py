import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from facecap.transforms.detectors.scrfd import Scrfd, decode, free_input_size
from facecap.transforms.models import ModelError
from facecap.transforms.onnx_session import onnx_session
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
    with pytest.raises(ModelError, match=r"relu\.onnx is no SCRFD .* 1 outputs"):
        Scrfd(path, "cpu", 32)
    path.write_bytes(b"not a model at all")
    with pytest.raises(ModelError, match="not an ONNX model"):
        Scrfd(path, "cpu", 32)


def small_scrfd() -> onnx.ModelProto:
    """A graph in SCRFD's form, of constant weights, its input fixed to 64 x 64."""
    value, array = helper.make_tensor_value_info, onnx.numpy_helper.from_array
    nodes, outputs, constants = [], [], []
    for width in (1, 4, 10):
        constants.append(array(np.array([-1, width]), f"rows{width}"))
        constants.append(array(np.full((2 * width, 3, 1, 1), 0.01, np.float32), f"weight{width}"))
        for stride in (8, 16, 32):
            name = f"{width}_{stride}"
            conv = [f"weight{width}"], [f"conv{name}"]
            nodes += [
                helper.make_node("Conv", ["x", *conv[0]], conv[1], strides=[stride, stride]),
                helper.make_node("Transpose", conv[1], [f"t{name}"], perm=[2, 3, 0, 1]),
                helper.make_node("Reshape", [f"t{name}", f"rows{width}"], [f"out{name}"]),
            ]
            rows = 2 * (64 // stride) ** 2
            outputs.append(value(f"out{name}", TensorProto.FLOAT, [rows, width]))
    inputs = [value("x", TensorProto.FLOAT, [1, 3, 64, 64])]
    graph = helper.make_graph(nodes, "scrfd", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def load(data: bytes) -> Scrfd:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        path.write_bytes(data)
        return Scrfd(path, "cpu", 32)


def spoil(model: onnx.ModelProto, how: str) -> None:
    graph = model.graph
    match how:
        case "no shape":
            reshape = next(node for node in graph.node if node.op_type == "Reshape")
            del reshape.input[1:]
        case "unknown type":
            graph.initializer[0].data_type = 99
        case "untyped input":
            graph.input[0].type.Clear()
        case "untyped outputs":
            graph.output[0].type.Clear()
        case "scalar shape":
            graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(1), "rows1"))
        case "other strides":
            graph.node[0].attribute[0].ints[:] = [32, 32]
        case "five channels":
            weight = np.zeros((2, 5, 1, 1), np.float32)
            graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(weight, "weight1"))


@pytest.mark.parametrize(
    "how",
    ["no shape", "unknown type", "untyped input", "untyped outputs", "scalar shape",
     "other strides", "five channels"],
)  # fmt: skip
def test_a_spoilt_graph_is_one_line(how):
    model = small_scrfd()
    assert len(load(model.SerializeToString()).detect(np.zeros((70, 90, 3), np.uint8))) == 0
    spoil(model, how)
    with pytest.raises(ModelError, match=r"m\.onnx (is no SCRFD|cannot be run)") as error:
        load(model.SerializeToString())
    assert "\n" not in str(error.value)


def any_damage(data) -> None:
    body = bytearray(small_scrfd().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        detector = load(bytes(body))
    except ModelError as error:
        assert len(str(error)) < 400 and "\n" not in str(error)
    else:
        detector.detect(np.zeros((64, 64, 3), np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_model_is_an_error_or_a_detector(data):
    any_damage(data)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_much_damage_to_a_model(data):
    any_damage(data)


@pytest.mark.parametrize("file", ["scrfd_500m_bnkps.onnx", "scrfd_2.5g.onnx"])
def test_the_freed_graph_gives_what_the_original_gives(test_models, file):
    original = test_models / "scrfd" / file
    model = onnx.load(original)
    free_input_size(model)
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
