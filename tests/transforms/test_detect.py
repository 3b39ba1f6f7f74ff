import io
import pickle
import random
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from PIL import Image
from pydantic import ValidationError

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, ImageInfo, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms import detect, models
from facecap.transforms.decode import DecodeOptions, opened
from facecap.transforms.detect import (
    Detect,
    DetectHandler,
    DetectOptions,
    decode_to_detect,
    detect_faces,
    detection_scale,
    load_detector,
    to_faces,
)
from facecap.transforms.detectors import DETECTORS, Detections, DetectorType

DECODE = DecodeOptions()
SHARD = ShardSpec(0, 0, ())


class WhiteSquares:
    """Finds one face: what is white, its five landmarks at its top left corner."""

    def detect(self, rgb: np.ndarray) -> Detections:
        rows, columns = np.nonzero((rgb > 128).all(axis=2))
        if not len(rows):
            return Detections.none()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        points = np.tile(np.array(box[:2], np.float32), (1, 5, 1))
        return Detections(np.array([box], np.float32), np.ones(1, np.float32), points)


def image(width=400, height=300, box=(100, 200, 180, 260)) -> Image.Image:
    """Black, with a white box."""
    made = Image.new("RGB", (width, height))
    made.paste((255, 255, 255), box)
    return made


def encoded(made: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    made.save(file, kind, **options)
    return file.getvalue()


def sample(body: bytes, row=0) -> Sample:
    return Sample(row, f"http://h/{row}", fetched=Fetched(200, body, "0" * 64))


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_boxes_are_in_pixels_of_the_original(scale, kind):
    found = detect_faces(sample(encoded(image(), kind)), WhiteSquares(), DECODE, scale, 40)
    assert found.drop is None and found.image == ImageInfo(kind, 400, 300)
    (face,) = found.faces
    assert face.box == pytest.approx((100, 200, 180, 260), abs=1 / scale)
    assert face.landmarks[4] == pytest.approx((100, 200), abs=1 / scale)
    assert face.score == 1 and face.rank == 0


def test_boxes_are_in_pixels_of_the_upright_original():
    exif = Image.Exif()
    exif[0x112] = 6
    body = encoded(image().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    found = detect_faces(sample(body), WhiteSquares(), DECODE, 0.5, 40)
    assert found.image == ImageInfo("JPEG", 400, 300)
    assert found.faces[0].box == pytest.approx((100, 200, 180, 260), abs=2)


def test_no_face_is_a_drop_that_keeps_the_header():
    found = detect_faces(sample(encoded(Image.new("RGB", (40, 30)))), WhiteSquares(), DECODE, 1, 40)
    assert found.drop == Drop(Stage.DETECT, Reason.NO_FACE)
    assert found.image == ImageInfo("PNG", 40, 30)


def test_bad_pixels_are_a_drop_that_keeps_the_header():
    body = encoded(Image.effect_noise((100, 100), 50).convert("RGB"), "JPEG")
    found = detect_faces(sample(body[: len(body) // 2]), WhiteSquares(), DECODE, 1, 40)
    assert found.drop is not None and found.drop.reason is Reason.TRUNCATED
    assert found.image == ImageInfo("JPEG", 100, 100)


@pytest.mark.parametrize("size", [(1001, 667), (3, 2), (1, 1), (1, 900)])
@pytest.mark.parametrize("scale", [1.0, 0.3125, 0.25])
def test_shrunk_images_have_about_the_size_asked_for_in_every_format(size, scale):
    for kind in ("PNG", "JPEG"):
        with opened(encoded(image(*size), kind), DECODE) as made:
            rgb, zoom, full = decode_to_detect(made, scale)
        assert full is not None and full.shape == (size[1], size[0], 3)
        for side, length, per_pixel in zip(size, rgb.shape[1::-1], zoom, strict=True):
            assert length == max(1, round(side * scale)) or abs(length - side * scale) < 1
            assert side - 1 / scale < length * per_pixel <= side + 0.5


def test_a_large_jpeg_is_decoded_at_the_scale_needed(monkeypatch):
    monkeypatch.setattr(detect, "FULL_DECODE_PIXELS", 10_000)
    body = encoded(image(401, 303, (100, 200, 180, 260)), "JPEG")
    with opened(body, DECODE) as made:
        rgb, zoom, full = decode_to_detect(made, 0.25)
    assert rgb.shape == (76, 101, 3) and zoom == (4, 4) and full is None
    found = detect_faces(sample(body), WhiteSquares(), DECODE, 0.25, 40)
    assert found.faces[0].box == pytest.approx((100, 200, 180, 260), abs=4)


def test_faces_are_ranked_by_area_then_place():
    boxes = np.array([[5, 0, 7, 2], [0, 0, 3, 3], [1, 4, 3, 6], [1, 0, 3, 2]], np.float32)
    found = Detections(boxes, np.arange(4, dtype=np.float32), np.zeros((4, 5, 2), np.float32))
    faces = to_faces(found, (2.0, 4.0))
    assert [f.rank for f in faces] == [0, 1, 2, 3]
    assert [f.score for f in faces] == [1, 3, 2, 0]
    assert faces[0].box == (0, 0, 6, 12)


def test_the_scale_follows_the_smallest_face_that_is_kept():
    options = DetectOptions()
    assert detection_scale(options, 128) == DETECTORS["mtcnn"].min_face / 128
    assert detection_scale(options, 10) == 1
    assert detection_scale(DetectOptions(min_face=64), 128) == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "yolo"), ("model", "celeba40"), ("provider", "tpu"), ("min_face", 4)],
)  # fmt: skip
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        DetectOptions(**{field: value})


def test_every_detector_can_be_located_by_its_name():
    for name in DETECTORS:
        assert models.REGISTRY[name].kind == "detector"


def test_a_missing_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path))
    with pytest.raises(models.ModelError, match="run: facecap models fetch mtcnn"):
        load_detector(DetectOptions(), 128)


class Nothing:
    """A detector that finds nothing, of a model that is in no registry."""

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        self.made_of = (path.read_bytes(), provider, min_face)

    def detect(self, rgb: np.ndarray) -> Detections:
        return Detections.none()

    def detect_many(self, images: list[np.ndarray]) -> list[Detections]:
        return [self.detect(rgb) for rgb in images]


def test_a_new_detector_is_one_class_and_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "nothing", DetectorType(Nothing, min_face=32, min_score=0.5))
    file = tmp_path / "nothing.onnx"
    file.write_bytes(b"x")
    detector = load_detector(DetectOptions(model="nothing", model_path=str(file)), 128)
    assert detector.made_of == (b"x", "cpu", 32)
    with pytest.raises(models.ModelError, match=r"or give its file by detect\.model_path"):
        load_detector(DetectOptions(model="nothing"), 128)


def test_a_bad_model_names_the_setting(tmp_path):
    file = tmp_path / "bad.onnx"
    file.write_bytes(b"junk")
    for name in DETECTORS:
        with pytest.raises(models.ModelError, match=r"^detect\.model_path: .*bad\.onnx is no"):
            load_detector(DetectOptions(model=name, model_path=str(file)), 128)


# With real models and photographs.


def astronaut(kind="PNG", **options) -> bytes:
    import skimage.data

    return encoded(Image.fromarray(skimage.data.astronaut()), kind, **options)


@pytest.fixture(scope="module")
def options() -> DetectOptions:
    try:
        models.locate("mtcnn")
    except models.ModelError as error:
        pytest.skip(str(error))
    return DetectOptions()


def odd_pictures() -> list[Sample]:
    bodies = [
        astronaut(),
        astronaut("JPEG", quality=90),
        b"<html>no image</html>",
        encoded(Image.new("RGB", (300, 200), "green")),
        astronaut("WEBP")[:5000],
        encoded(Image.open(io.BytesIO(astronaut())).rotate(15)),
    ]
    return [sample(body, row) for row, body in enumerate(bodies)]


def test_the_stage_in_a_pipeline(options):
    def check(batches):
        (batch,) = batches
        assert batch.failure is None
        reasons = [s.drop.reason if s.drop else None for s in batch.samples]
        expected = [None, None, Reason.NOT_AN_IMAGE, Reason.NO_FACE, Reason.TRUNCATED, None]
        assert reasons == expected
        for s in (batch.samples[0], batch.samples[1]):
            assert s.faces[0].box == pytest.approx((180, 61, 268, 172), abs=6)
            assert s.faces[0].score > 0.98
            left, right, nose = s.faces[0].landmarks[:3]
            assert left[0] < nose[0] < right[0] and max(left[1], right[1]) < nose[1]

    with beam.Pipeline("FnApiRunner") as pipeline:
        batch = SampleBatch(SHARD, tuple(odd_pictures()))
        found = pipeline | beam.Create([batch]) | Detect(options, DECODE, 80)
        assert_that(found, check)


def test_results_do_not_depend_on_the_batch(options):
    handler = pickle.loads(pickle.dumps(DetectHandler(options, DECODE, 80)))
    detector = handler.load_model()
    samples = odd_pictures()

    def run(chosen: list[Sample]) -> list[Sample]:
        (batch,) = handler.run_inference(SampleBatch(SHARD, tuple(chosen)), detector)
        assert batch.failure is None
        return list(batch.samples)

    alone = [run([s])[0] for s in samples]
    assert run(samples) == alone
    rng = random.Random(0)
    for _ in range(3):
        order = rng.sample(range(len(samples)), 4)
        assert run([samples[i] for i in order]) == [alone[i] for i in order]


def test_shrinking_still_finds_the_photographs_faces(options, test_data):
    """Faces of at least 128 pixels at full size are found at the size that the filter needs."""
    full = DetectHandler(DetectOptions(min_face=128), DECODE, 128)
    shrunk = DetectHandler(options, DECODE, 128)
    folder = test_data / "photos" / "glasses"
    bodies = [file.read_bytes() for file in sorted(folder.iterdir())]
    batch = SampleBatch(SHARD, tuple(sample(body, row) for row, body in enumerate(bodies)))
    results = [
        next(iter(handler.run_inference(batch, handler.load_model()))).samples
        for handler in (full, shrunk)
    ]
    large = found = 0
    for one, other in zip(*results, strict=True):
        for face in one.faces:
            if face.side < 128 or face.score < 0.98:
                continue
            large += 1
            centre = [(face.box[i] + face.box[i + 2]) / 2 for i in (0, 1)]
            found += any(
                f.score >= 0.98
                and f.box[0] < centre[0] < f.box[2]
                and f.box[1] < centre[1] < f.box[3]
                for f in other.faces
            )
    assert large >= 15 and found == large
