"""Detect: finds every face of an image, at the scale that the size filter needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference
from pydantic import field_validator

from facecap.schemas.options import Options, content, run
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.transforms import micro_batch, models, pixels, railway
from facecap.transforms.decode import RGB, DecodeOptions, EncodedImage, opened
from facecap.transforms.detectors import DETECTORS, Detections, Detector
from facecap.transforms.onnx_session import MICRO_BATCH, PROVIDERS, naming_setting
from facecap.transforms.read_rows import BATCH_SIZE
from facecap.transforms.resize import shrink

FULL_DECODE_PIXELS = 16_000_000
"""Larger images are decoded at the nearest scale above the one needed, to spare memory."""

Zoom = tuple[float, float]


class DetectOptions(Options):
    """Which detector finds the faces, and where it runs."""

    model: str = content("mtcnn", f"face detector: {', '.join(DETECTORS)}")
    # Its place is no content; its sha256 enters the fingerprint.
    model_path: str | None = run(None, "the detector's ONNX file; none: the fetched one")
    provider: str = content("cpu", f"where it runs: {', '.join(PROVIDERS)}")
    min_face: int | None = content(
        None,
        "images are shrunk until crop.min_side is this many pixels; none: the detector's own",
        ge=12,
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in DETECTORS:
            raise ValueError(f"unknown detector, choose one of {', '.join(DETECTORS)}")
        return value

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        if value not in PROVIDERS:
            raise ValueError(f"unknown provider, choose one of {', '.join(PROVIDERS)}")
        return value


def detection_scale(options: DetectOptions, min_side: int) -> float:
    """How far images may be shrunk so that a face of `min_side` pixels can still be found."""
    min_face = options.min_face or DETECTORS[options.model].min_face
    return min(1.0, min_face / min_side)


def load_detector(options: DetectOptions, min_side: int) -> Detector:
    """The detector, loaded. Raises ModelError naming the setting and the remedy."""
    smallest = max(1, round(min_side * detection_scale(options, min_side)))
    path = models.locate(options.model, options.model_path)
    with naming_setting("detect", options.model_path):
        return DETECTORS[options.model].detector(path, options.provider, smallest)


def decode_to_detect(image: EncodedImage, scale: float) -> tuple[RGB, Zoom, RGB | None]:
    """The upright image shrunk by `scale`, uint8 RGB [h, w, 3]; the pixels of the original per
    pixel of it, (x, y); and the full-size pixels where they were decoded on the way.

    Up to FULL_DECODE_PIXELS an image is decoded in full: most of a JPEG's time is its entropy
    coding, which a smaller scale does not spare (docs/decisions.md). Raises Dropped.
    """
    in_full = image.info.width * image.info.height <= FULL_DECODE_PIXELS
    rgb, divisor = image.decode(1.0 if in_full else scale)
    small, (x, y) = shrink(rgb, scale * divisor)
    return small, (x * divisor, y * divisor), rgb if divisor == 1 else None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a detector is given of a sample: `sample` has its image's header; the rest is what
    `decode_to_detect` gives."""

    sample: Sample
    rgb: RGB
    zoom: Zoom
    full: RGB | None

    @property
    def nbytes(self) -> int:
        """Pixels held."""
        return self.rgb.nbytes + (0 if self.full is None else self.full.nbytes)


def decode_sample(sample: Sample, options: DecodeOptions, scale: float) -> Decoded | Sample:
    """The image of `sample`, or the sample dropped (with the header, which the ledger tells) where
    its pixels are bad. Raises Dropped when the header is."""
    assert sample.fetched is not None and sample.fetched.body is not None
    with opened(sample.fetched.body, options) as image:
        sample = replace(sample, image=image.info)
        try:
            return Decoded(sample, *decode_to_detect(image, scale))
        except railway.Dropped as dropped:
            return replace(sample, drop=dropped.drop)


def with_faces(decoded: Decoded, found: Detections, min_side: int) -> Sample:
    """The sample with all detected faces, whatever their size and score; dropped when there is
    none. The pixels are kept for the later stages where a face is of `min_side`."""
    sample = decoded.sample
    if not len(found):
        return replace(sample, drop=Drop(Stage.DETECT, Reason.NO_FACE))
    faces = to_faces(found, decoded.zoom)
    if decoded.full is not None and any(face.side >= min_side for face in faces):
        pixels.keep(sample, decoded.full)
    return replace(sample, faces=faces)


def detect_faces(
    sample: Sample, detector: Detector, options: DecodeOptions, scale: float, min_side: int
) -> Sample:
    """`sample` with its image's header and its faces, or dropped: `decode_sample`, the detector
    and `with_faces` for one sample. Raises Dropped when the header is bad."""
    decoded = decode_sample(sample, options, scale)
    if isinstance(decoded, Sample):
        return decoded
    return with_faces(decoded, detector.detect(decoded.rgb), min_side)


def to_faces(found: Detections, zoom: Zoom) -> tuple[Face, ...]:
    """Faces ranked by box area, the largest first (ties by x0, then y0); coordinates are
    multiplied by `zoom` (x, y), which leads from the shrunk image to the original."""
    x, y = zoom
    boxes = found.boxes.astype(np.float64) * [x, y, x, y]
    landmarks = found.landmarks.astype(np.float64) * [x, y]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((boxes[:, 1], boxes[:, 0], -areas))
    faces = []
    for rank, i in enumerate(order):
        x0, y0, x1, y1 = boxes[i].tolist()
        left_eye, right_eye, nose, left_mouth, right_mouth = map(tuple, landmarks[i].tolist())
        faces.append(
            Face(
                rank=rank,
                box=(x0, y0, x1, y1),
                score=float(found.scores[i]),
                landmarks=(left_eye, right_eye, nose, left_mouth, right_mouth),
            )
        )
    return tuple(faces)


def batch_size(provider: str) -> int:
    """Samples per SampleBatch: as many as make a micro-batch of the detector's provider, where that
    is more than a batch of the CPU's."""
    return max(BATCH_SIZE, MICRO_BATCH[provider])


class DetectHandler(ModelHandler[SampleBatch, SampleBatch, Detector]):
    """Runs a detector over the live samples of a batch: one image at a time, or `micro_batch` at
    once (none: as is best for the provider).

    RunInference loads one detector per worker process, and all threads of it share that one.
    """

    def __init__(
        self,
        options: DetectOptions,
        decode_options: DecodeOptions,
        min_side: int,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        self._options = options
        self._decode = decode_options
        self._min_side = min_side
        self._micro_batch = micro_batch or MICRO_BATCH[options.provider]

    def load_model(self) -> Detector:
        return load_detector(self._options, self._min_side)

    def run_inference(
        self,
        batch: SampleBatch,
        model: Detector,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[SampleBatch]:
        scale = detection_scale(self._options, self._min_side)
        pixels.forget()
        if self._micro_batch > 1:
            steps = micro_batch.Steps[Decoded, Detections](
                prepare=lambda sample: decode_sample(sample, self._decode, scale),
                nbytes=lambda decoded: decoded.nbytes,
                ask=lambda waiting: model.detect_many([decoded.rgb for decoded in waiting]),
                finish=lambda decoded, found: with_faces(decoded, found, self._min_side),
            )
            yield micro_batch.map_live(batch, Stage.DETECT, steps, self._micro_batch)
            return

        def find(sample: Sample) -> Sample:
            return detect_faces(sample, model, self._decode, scale, self._min_side)

        yield railway.map_live(batch, Stage.DETECT, find)

    def get_num_bytes(self, batch: SampleBatch | Sequence[SampleBatch]) -> int:
        assert isinstance(batch, SampleBatch)
        return batch.nbytes

    def get_metrics_namespace(self) -> str:
        return "detect"

    def should_skip_batching(self) -> bool:
        return True


class Detect(beam.PTransform):
    """SampleBatch -> SampleBatch with `image` and `faces` set, or a drop."""

    def __init__(
        self,
        options: DetectOptions,
        decode: DecodeOptions,
        min_side: int,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        self._handler = DetectHandler(options, decode, min_side, micro_batch)

    def expand(self, batches: beam.PCollection[SampleBatch]) -> beam.PCollection[SampleBatch]:
        return batches | RunInference(self._handler).with_output_types(SampleBatch)
