import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms import models
from facecap.transforms.detectors import mtcnn
from facecap.transforms.detectors.mtcnn import Mtcnn, _bins, _cut, _prefix_sums, _resize
from facecap.transforms.detectors.mtcnn_weights import build_onnx
from tests.oracles.record import load
from tests.transforms.detectors.conftest import ASTRONAUT, load_detector


@pytest.fixture(scope="module")
def made(tmp_path_factory, mtcnn_weights_made) -> Mtcnn:
    """An MTCNN of random weights, whose boxes go anywhere."""
    path = tmp_path_factory.mktemp("model") / "mtcnn.onnx"
    path.write_bytes(build_onnx(mtcnn_weights_made))
    return Mtcnn(path, "cpu", 20)


@pytest.fixture(scope="module")
def credulous(tmp_path_factory, mtcnn_weights_made) -> Path:
    """The file of an MTCNN that takes everything for a face."""
    weights = {network: dict(layers) for network, layers in mtcnn_weights_made.items()}
    for network, layer in (("pnet", "conv4_1"), ("rnet", "dense5_1"), ("onet", "dense6_1")):
        weights[network][f"{layer}.bias"] = np.array([-4, 4], np.float32)
    path = tmp_path_factory.mktemp("model") / "mtcnn.onnx"
    path.write_bytes(build_onnx(weights))
    return path


def test_area_interpolation_is_the_mean_of_each_bin():
    rgb = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    sums = _prefix_sums(rgb)
    for size in ((11, 12), (37, 53), (50, 60)):
        out = _resize(sums, size)[0] * 128 + 127.5
        (top, bottom), (left, right) = _bins(37, size[0]), _bins(53, size[1])
        for y, x in ((0, 0), (5, 7), (size[0] - 1, size[1] - 1)):
            mean = rgb[top[y] : bottom[y], left[x] : right[x]].mean(axis=(0, 1))
            assert out[:, y, x] == pytest.approx(mean, abs=1e-3)


def test_prefix_sums_that_overflow_still_give_means():
    rgb = np.full((3000, 3000, 3), 255, np.uint8)
    rgb[1000:2000, 2400:] = 51
    sums = _prefix_sums(rgb)
    assert sums.min() < 0  # or it is not large enough to test anything
    out = _resize(sums, (15, 15)) * 128 + 127.5
    assert np.allclose(out, rgb.transpose(2, 0, 1)[None, :, ::200, ::200])
    boxes = np.array([[2401, 1001, 3000, 2000], [1, 1, 3000, 3000]], np.float32)
    corner, whole = _cut(sums, boxes, 24) * 128 + 127.5
    assert np.allclose(corner, 51) and whole.max() == pytest.approx(255)


def test_many_candidates_are_looked_at_in_small_groups(credulous, monkeypatch):
    detector = Mtcnn(credulous, "cpu", 20)
    rgb = np.random.default_rng(2).integers(0, 256, (90, 100, 3), np.uint8)
    sizes = []
    run = mtcnn._run

    def counted(session, name, images):
        sizes.append(len(images))
        return run(session, name, images)

    monkeypatch.setattr(mtcnn, "_run", counted)
    monkeypatch.setattr(mtcnn, "_CHUNK", 7)
    many = detector.detect(rgb)
    assert len(many) > 3 and max(sizes) == 7
    monkeypatch.setattr(mtcnn, "_CHUNK", 10**6)
    few = detector.detect(rgb)
    assert max(sizes) > 100
    assert np.allclose(many.boxes, few.boxes, atol=0.01)
    assert np.allclose(many.scores, few.scores, atol=1e-5)


def test_an_image_full_of_candidates_needs_little_memory(credulous):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from facecap.transforms.detectors.mtcnn import Mtcnn\n"
        "from tests.memory import peak_bytes\n"
        "detector = Mtcnn(Path(sys.argv[1]), 'cpu', 40)\n"
        "rgb = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)\n"
        "before = peak_bytes()\n"
        "detector.detect(rgb)\n"
        "print(peak_bytes() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(credulous)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert int(result.stdout) < 200_000_000


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (19, 19), (20, 20), (64, 48), (120, 160)])
def test_any_image_can_be_looked_at(made, shape):
    rgb = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    found = made.detect(rgb)
    assert found.boxes.shape == (len(found), 4) and found.boxes.dtype == np.float32
    assert found.scores.shape == (len(found),) and (found.scores > 0.7).all()
    assert found.landmarks.shape == (len(found), 5, 2)


def test_a_model_of_another_kind_is_refused(tmp_path, made):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(models.ModelError, match=r"is not an ONNX model|no converted MTCNN"):
        Mtcnn(path, "cpu", 20)


def test_a_name_that_is_no_text_is_refused(tmp_path, mtcnn_weights_made):
    data = build_onnx(mtcnn_weights_made)
    path = tmp_path / "model.onnx"
    path.write_bytes(data.replace(b"pnet/", b"pnet\xff"))
    with pytest.raises(models.ModelError, match="a name in it is not text"):
        Mtcnn(path, "cpu", 20)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_model_is_an_error_or_a_detector(mtcnn_weights_made, data):
    model = onnx.load_from_string(build_onnx(mtcnn_weights_made))
    part = data.draw(st.sampled_from([*model.graph.node, *model.graph.output, *model.graph.input]))
    body = bytearray(part.SerializeToString())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        part.ParseFromString(bytes(body))
    except DecodeError:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        path.write_bytes(model.SerializeToString())
        try:
            detector = Mtcnn(path, "cpu", 20)
        except models.ModelError as error:
            assert "\n" not in str(error)
        else:
            detector.detect(np.zeros((30, 30, 3), np.uint8))


def test_finds_no_face_smaller_than_asked():
    rgb = load(ASTRONAUT)  # a face of 88 x 111 pixels
    assert len(load_detector("mtcnn", 60).detect(rgb)) == 1
    assert len(load_detector("mtcnn", 300).detect(rgb)) == 0
