"""Images per second of Detect and ClassifyAttributes against the number of images in a call, on a
GPU or a CPU, beside insightface's own loop; ratios are of one run. `docs/gpu.md` tells what to
install.

    python -m benchmarks.gpu --provider cuda                  # as large as it should be: minutes
    python -m benchmarks.gpu --provider cpu --images 32 --batches 1 2 4
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.data import test_data
from benchmarks.report import table
from benchmarks.server import SetupError, photographs
from benchmarks.tools import HERE, PEERS_PYTHON
from facecap.schemas.sample import Fetched, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms.classify_attributes import AttributesOptions, Classifier
from facecap.transforms.decode import DecodeOptions, decode
from facecap.transforms.detect import DetectHandler, DetectOptions, batch_size
from facecap.transforms.detectors import DETECTORS, one_pass
from facecap.transforms.onnx_session import PROVIDERS
from facecap.transforms.resize import shrink

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CANVAS = 640
"""insightface's own input size: at it both networks do the same work."""
MIN_SIDE = 128
"""crop.min_side's default, from which the scale of the line follows."""

RGB = npt.NDArray[np.uint8]


@dataclass
class Utilisation:
    """What nvidia-smi said while something ran: per cent of the time that the first GPU had
    anything to do, and MiB of its memory. Empty where there is no nvidia-smi."""

    percent: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.percent:
            return "-"
        return f"{statistics.mean(self.percent):.0f} %, {max(self.memory):.0f} MiB"

    def read(self, lines: Iterator[str] | Sequence[str]) -> None:
        """Lines like "57, 1234"; others (of a GPU that does not tell) are passed over."""
        for line in lines:
            try:
                percent, memory = map(float, line.split(","))
            except ValueError:
                continue
            self.percent.append(percent)
            self.memory.append(memory)


@contextmanager
def utilisation() -> Iterator[Utilisation]:
    """Samples the GPU five times a second within the block."""
    seen = Utilisation()
    program = shutil.which("nvidia-smi")
    if program is None:
        yield seen
        return
    query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    command = [program, "--id=0", *query, "--loop-ms=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=seen.read, args=(process.stdout,))
        reader.start()
        try:
            yield seen
        finally:
            process.terminate()
            reader.join()


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    per_second: float
    gpu: str = "-"


def timed(name: str, images: int, run: Callable[[], object]) -> Row:
    """`run` looks at `images` images; before it is timed it has run once."""
    run()
    with utilisation() as seen:
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
    return Row(name, images / seconds, str(seen))


def in_batches(items: Sequence[RGB], size: int) -> Iterator[Sequence[RGB]]:
    return (items[i : i + size] for i in range(0, len(items), size))


@contextmanager
def calls(provider: str, of_provider: tuple[tuple[int, int], ...]) -> Iterator[None]:
    """Within the block detectors are loaded with these calls."""
    before = one_pass.CALLS[provider]
    one_pass.CALLS[provider] = of_provider
    try:
        yield
    finally:
        one_pass.CALLS[provider] = before


def detect_rows(
    model: Path, options: DetectOptions, pictures: Sequence[RGB], batches: Sequence[int]
) -> Iterator[Row]:
    """The detector on canvases of CANVAS x CANVAS, and insightface's loop over the same pictures
    (which have no longer side)."""
    kind = DETECTORS[options.model].detector
    for size in batches:
        with calls(options.provider, ((CANVAS, size), (one_pass.CORE + 2 * one_pass.MARGIN, 1))):
            detector = kind(model, options.provider, 32)

        def run(detector=detector, size=size) -> None:  # type: ignore[no-untyped-def]
            for batch in in_batches(pictures, size):
                detector.detect_many(batch)

        yield timed(f"detect, {size} in a call", len(pictures), run)
    if options.model.startswith("scrfd") and PEERS_PYTHON.exists():
        yield insightface(model, options.provider, pictures)


def insightface(model: Path, provider: str, pictures: Sequence[RGB]) -> Row:
    """insightface's loop, in the peers' environment (there: onnxruntime-gpu for cuda)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pictures.npz")
        np.savez(file, *pictures)
        script = HERE / "peers" / "scrfd_images.py"
        command = [str(PEERS_PYTHON), str(script), str(model), provider, str(file)]
        with utilisation() as seen:
            done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return Row("insightface's loop", result["images"] / result["seconds"], str(seen))


def classify_rows(provider: str, chips: RGB, batches: Sequence[int]) -> Iterator[Row]:
    """The embedded classifier over chips [n, 109, 89, 3]."""
    for size in batches:
        model = Classifier(AttributesOptions(provider=provider), size)
        name = f"classify, {size} in a call"
        yield timed(name, len(chips), lambda model=model: model.probabilities(chips))  # type: ignore[misc]


def line_rows(options: DetectOptions, bodies: Sequence[bytes], threads: int) -> Iterator[Row]:
    """The whole stage Detect, decoding included, as a worker process runs it: threads that share
    one model; one image at a time, and as is best for the provider."""
    for micro_batch in (1, None):
        handler = DetectHandler(options, DecodeOptions(), MIN_SIDE, micro_batch)
        detector = handler.load_model()
        size = batch_size(options.provider)
        samples = [Sample(i, "", fetched=Fetched(200, body)) for i, body in enumerate(bodies)]
        groups = [tuple(samples[i : i + size]) for i in range(0, len(samples), size)]
        batches = [SampleBatch(ShardSpec(0, 0, ()), group) for group in groups]

        def run(handler=handler, detector=detector, batches=batches) -> None:  # type: ignore[no-untyped-def]
            with ThreadPoolExecutor(threads) as pool:
                for found in pool.map(lambda b: [*handler.run_inference(b, detector)], batches):
                    assert found[0].failure is None, found[0].failure

        how = "one at a time" if micro_batch else "the provider's micro-batch"
        yield timed(f"Detect with decoding, {threads} threads, {how}", len(bodies), run)


def shown(rows: Sequence[Row]) -> str:
    """A table with ratios to its first line, and to insightface's where there is one."""
    loop = [row.per_second for row in rows if row.name.startswith("insightface")]
    head = ["", "images/s", "ratio to the first", "ratio to insightface", "GPU: busy, memory"]
    lines = [
        [
            row.name,
            f"{row.per_second:.1f}",
            f"{row.per_second / rows[0].per_second:.2f}",
            f"{row.per_second / loop[0]:.2f}" if loop else "-",
            row.gpu,
        ]
        for row in rows
    ]
    return table(head, lines)


def chips_of(pictures: Sequence[RGB], count: int) -> RGB:
    """`count` pieces of pictures, of the size of a chip: uint8 [count, 109, 89, 3]."""
    large = [rgb for rgb in pictures if rgb.shape[0] >= 109 and rgb.shape[1] >= 89]
    return np.stack([rgb[:109, :89] for rgb in islice(cycle(large), count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", choices=list(PROVIDERS), default="cuda")
    parser.add_argument("--detector", choices=list(DETECTORS), default="scrfd-500m")
    parser.add_argument("--model", type=Path, help="its file; none: SCRFD-500M of the test models")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    try:
        data, model = test_data()
    except SetupError as error:
        parser.exit(2, f"{error}\n")
    model = arguments.model or model
    options = DetectOptions(
        model=arguments.detector, model_path=str(model), provider=arguments.provider
    )
    photos = [(data / path).read_bytes() for path in photographs(data)]
    decoded = (decode(body, DecodeOptions()) for body in photos[: arguments.images])
    few = [shrink(rgb, min(1.0, CANVAS / max(rgb.shape)))[0] for rgb in decoded]
    pictures = [*islice(cycle(few), arguments.images)]
    print(f"{arguments.images} images, {arguments.detector}, {arguments.provider}\n")
    print(shown([*detect_rows(model, options, pictures, arguments.batches)]))
    chips = chips_of(pictures, arguments.images)
    print(shown([*classify_rows(arguments.provider, chips, arguments.batches)]))
    bodies = [*islice(cycle(photos), arguments.images)]
    print(shown([*line_rows(options, bodies, arguments.threads)]))


if __name__ == "__main__":
    main()
