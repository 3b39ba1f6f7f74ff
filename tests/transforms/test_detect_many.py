"""Many images at once, the way of an accelerator, on the CPU."""

import io
import pickle
import threading
import time
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that
from PIL import Image

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import SampleBatch
from facecap.transforms import micro_batch, models, pixels
from facecap.transforms.detect import Detect, DetectHandler, DetectOptions, batch_size
from facecap.transforms.detectors import Detections, one_pass
from facecap.transforms.onnx_session import MICRO_BATCH
from facecap.transforms.read_rows import BATCH_SIZE
from tests.transforms.test_detect import DECODE, SHARD, WhiteSquares, encoded, image, sample


def test_a_batch_is_as_large_as_the_provider_wants_it():
    assert batch_size("cpu") == BATCH_SIZE and batch_size("cuda") == MICRO_BATCH["cuda"]


def through(transform: beam.PTransform, batches: list[SampleBatch], file: Path) -> list:
    """What the transform makes of the batches, in a pipeline."""

    def save(found: list[SampleBatch]) -> None:
        file.write_bytes(pickle.dumps(found))

    with beam.Pipeline("FnApiRunner") as pipeline:
        found = pipeline | beam.Create(batches) | transform | beam.combiners.ToList()
        found | beam.Map(save)
    return sorted(pickle.loads(file.read_bytes()), key=lambda batch: batch.samples[0].row)


def equal_faces(found: list[SampleBatch]) -> list[tuple]:
    """What can be compared of all samples (the bodies are the same objects, or copies)."""
    assert all(batch.failure is None for batch in found)
    samples = [sample for batch in found for sample in batch.samples]
    return [(s.row, s.drop, s.image, s.faces) for s in samples]


def batches_of(photographs: dict[str, bytes]) -> list[SampleBatch]:
    """Two batches: the demo's photographs and files, whole and smaller."""
    small = []
    for name in ("/astronaut.png", "/group.jpg"):
        picture = Image.open(io.BytesIO(photographs[name])).convert("RGB")
        small += [encoded(picture.reduce(n), "JPEG", quality=90) for n in (2, 3)]
    bodies = [*photographs.values(), *small, b""]
    samples = [sample(body, row) for row, body in enumerate(bodies)]
    return [SampleBatch(SHARD, tuple(samples[:7])), SampleBatch(SHARD, tuple(samples[7:]))]


def test_mtcnn_finds_the_same_in_a_micro_batch(photographs, tmp_path):
    try:
        models.locate("mtcnn")
    except models.ModelError as error:
        pytest.skip(str(error))
    options = DetectOptions()
    batches = batches_of(photographs)
    alone, many = (
        equal_faces(through(Detect(options, DECODE, 128, n), batches, tmp_path / "found"))
        for n in (None, 6)
    )
    assert alone == many and sum(len(faces) for *_, faces in many) >= 7


@pytest.mark.parametrize(
    ("name", "file", "max_bytes"),
    [
        ("scrfd-500m", "scrfd/scrfd_500m_bnkps.onnx", micro_batch.MAX_BYTES),
        ("yunet", "yunet/yunet_n_dynamic.onnx", 3_000_000),
    ],
)
def test_a_detector_finds_the_same_in_a_micro_batch(
    test_models, photographs, monkeypatch, tmp_path, name, file, max_bytes
):
    monkeypatch.setattr(micro_batch.map_live, "__defaults__", (max_bytes,))
    options = DetectOptions(model=name, model_path=str(test_models / file))
    batches = batches_of(photographs)

    def found(calls, size) -> list[tuple]:
        monkeypatch.setitem(one_pass.CALLS, "cpu", calls)
        return equal_faces(through(Detect(options, DECODE, 128, size), batches, tmp_path / "f"))

    alone = found(((256, 1), (512, 1), (1024, 1), (2176, 1)), 1)
    assert sum(len(faces) for *_, faces in alone) >= 10
    assert found(((256, 4), (512, 3), (1024, 2), (2176, 1)), 9) == alone
    # On the canvases that a CPU takes, too.
    assert found((), 9) == found((), None)


class Fragile(WhiteSquares):
    """Cannot bear pictures without any black in them."""

    def detect(self, rgb: np.ndarray) -> Detections:
        if rgb.min() > 0:
            raise ArithmeticError("no black")
        return super().detect(rgb)

    def detect_many(self, images: list[np.ndarray]) -> list[Detections]:
        return [self.detect(rgb) for rgb in images]


def test_a_bad_image_does_not_spoil_the_others_of_its_micro_batch():
    bad = encoded(Image.new("RGB", (300, 200), "green").point(lambda value: value + 1))
    good = encoded(image())
    batch = SampleBatch(SHARD, tuple(sample(b, row) for row, b in enumerate([good, bad, good])))
    (found,) = DetectHandler(DetectOptions(), DECODE, 80, 3).run_inference(batch, Fragile())
    first, middle, last = found.samples
    assert found.failure is None and len(first.faces) == len(last.faces) == 1
    assert middle.drop.reason is Reason.INTERNAL_ERROR
    assert middle.drop.error.startswith("ArithmeticError ")
    # The later stages have the pixels of those that go on.
    assert pixels.full(first, DECODE).shape == (300, 400, 3)


class Counted(DetectHandler):
    """Notes in a file every detector that it loads."""

    def __init__(self, folder: Path, *settings) -> None:
        super().__init__(*settings)
        self._folder = folder

    def load_model(self) -> WhiteSquares:
        (self._folder / f"{threading.get_ident()}-{time.monotonic_ns()}").touch()
        return WhiteSquares()

    def run_inference(self, batch, model, inference_args=None):
        (self._folder / f"used-{threading.get_ident()}-{id(model)}").touch()
        time.sleep(0.2)  # the other threads get their turn
        return super().run_inference(batch, model, inference_args)


def test_the_threads_of_a_worker_share_one_model(tmp_path):
    handler = Counted(tmp_path, DetectOptions(), DECODE, 80)
    batches = [SampleBatch(SHARD, (sample(encoded(image()), row),)) for row in range(8)]
    flags = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    with beam.Pipeline("FnApiRunner", options=PipelineOptions(flags)) as pipeline:
        found = pipeline | beam.Create(batches) | beam.Reshuffle() | RunInference(handler)
        assert_that(found, lambda all_found: None if len(all_found) == 8 else pytest.fail())
    names = [path.name.split("-") for path in tmp_path.iterdir()]
    used = [name for name in names if name[0] == "used"]
    assert len({thread for _, thread, _ in used}) == 2
    assert len({model for _, _, model in used}) == 1
    assert len(names) - len(used) == 1
