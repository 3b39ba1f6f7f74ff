"""The kernel limit: how long the bare library calls take that Detect, Crop, ClassifyAttributes and
EncodeCrops make (decode, detect, classify, encode), on one thread of a quiet process.

    python -m benchmarks.kernels          # a table, milliseconds per photograph
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import onnxruntime
import simplejpeg
from PIL import Image, ImageFile

from benchmarks.data import test_data
from benchmarks.server import photographs
from facecap.pipeline.graph import make_crop
from facecap.pipeline.settings import Settings, load_settings, resolve_models
from facecap.schemas.sample import Fetched, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms.classify_attributes import AttributesHandler
from facecap.transforms.crop import EncodeCrops
from facecap.transforms.detect import DetectHandler
from facecap.transforms.read_rows import BATCH_SIZE

REPEATS = 5

DECODED_AGAIN = ("crop/decode", "encode/decode")

Stage = Callable[[SampleBatch], SampleBatch]


@dataclass
class Clock:
    """Seconds by "stage/kernel" (only the outermost of nested calls counts), and by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = ""
    inside: bool = False

    def timed(self, kernel: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, started = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False
                self.add(f"{self.stage}/{kernel}", time.thread_time() - started)

        return call

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@contextmanager
def kernels_timed(clock: Clock) -> Iterator[None]:
    """Within the block the libraries' calls are timed: decoders, ONNX Runtime, JPEG encoders."""
    Image.init()
    decoders = [c for c in _subclasses(ImageFile.ImageFile) if "load" in vars(c)]
    places: list[tuple[Any, str, str]] = [
        (simplejpeg, "decode_jpeg", "decode"),
        (cv2, "imdecode", "decode"),
        *((decoder, "load", "decode") for decoder in [ImageFile.ImageFile, *decoders]),
        (onnxruntime.InferenceSession, "run", "model"),
        (simplejpeg, "encode_jpeg", "encode"),
        (cv2, "imencode", "encode"),
        (Image.Image, "save", "encode"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, kernel in places:
        setattr(owner, name, clock.timed(kernel, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _subclasses(kind: type) -> list[type]:
    children: list[type] = kind.__subclasses__()
    return children + [k for child in children for k in _subclasses(child)]


def measure(
    bodies: Sequence[bytes], settings: Settings, repeats: int = REPEATS
) -> dict[str, float]:
    """Seconds per image, the median of `repeats` passes over `bodies`: "stage/kernel" for every
    bare call, "stage" for a whole stage, and "sha256", which is no kernel here."""
    stages = load_stages(settings)
    passes = [_one_pass(bodies, stages) for _ in range(repeats + 1)][1:]  # the first one warms up
    return {
        name: statistics.median(one.get(name, 0.0) for one in passes) / len(bodies)
        for name in sorted({name for one in passes for name in one})
    }


def load_stages(settings: Settings) -> dict[str, Stage]:
    """The computing stages as the line runs them, with their models loaded."""
    detect = DetectHandler(settings.detect, settings.decode, settings.crop.min_side)
    attributes = AttributesHandler(settings.attributes)
    detector, classifier = detect.load_model(), attributes.load_model()
    crop, encode = make_crop(settings)._do_fn, EncodeCrops(settings.crop, settings.decode)._do_fn
    return {
        "detect": lambda batch: next(iter(detect.run_inference(batch, detector))),
        "crop": lambda batch: next(iter(crop.process(batch))),
        "classify": lambda batch: next(iter(attributes.run_inference(batch, classifier))),
        "encode": lambda batch: next(iter(encode.process(batch))),
    }


def _one_pass(bodies: Sequence[bytes], stages: dict[str, Stage]) -> dict[str, float]:
    clock = Clock()
    spec = ShardSpec(number=0, first_row=0, ranges=())
    started = time.thread_time()
    digests = [hashlib.sha256(body).hexdigest() for body in bodies]
    clock.add("sha256", time.thread_time() - started)
    samples = [
        Sample(row, f"http://{row}", fetched=Fetched(http_status=200, body=body, sha256=digest))
        for row, (body, digest) in enumerate(zip(bodies, digests, strict=True))
    ]
    with kernels_timed(clock):
        for start in range(0, len(samples), BATCH_SIZE):
            batch = SampleBatch(spec, tuple(samples[start : start + BATCH_SIZE]))
            for name, stage in stages.items():
                clock.stage, started = name, time.thread_time()
                batch = stage(batch)
                clock.add(name, time.thread_time() - started)
                assert not batch.failure, batch.failure
    return clock.seconds


def bare_seconds(measured: dict[str, float]) -> float:
    """Seconds per image of all bare calls together. An image that a later stage had to decode
    again counts once."""
    calls = (name for name in measured if "/" in name and name not in DECODED_AGAIN)
    return sum(measured[name] for name in calls)


def settings_for(model: Path) -> Settings:
    """The settings of the line that is measured."""
    sets = ["detect.model=scrfd-500m", f"detect.model_path={model}"]
    return resolve_models(load_settings(overrides=sets))[0]


def table(measured: dict[str, float]) -> list[tuple[str, float, float]]:
    """(stage, ms of its bare calls, ms of the rest) per image."""
    rows = []
    for stage in (name for name in measured if "/" not in name):
        calls = [n for n in measured if n.startswith(f"{stage}/") and n not in DECODED_AGAIN]
        bare = sum(measured[name] for name in calls)
        rows.append((stage, bare * 1e3, (measured[stage] - bare) * 1e3))
    return rows


def main() -> None:
    data, model = test_data()
    bodies = [(data / photo).read_bytes() for photo in photographs(data)]
    measured = measure(bodies, settings_for(model))
    for name, seconds in measured.items():
        print(f"{name:20} {seconds * 1e3:8.3f} ms per image")
    print(f"{'bare calls':20} {bare_seconds(measured) * 1e3:8.3f} ms per image")


if __name__ == "__main__":
    main()
