"""Fetching alone: ReadRows -> Download -> WriteShard on Beam's FnApiRunner, with nothing decoded.

Every body goes to its shard's tar as if it were the crop of the one face of its image, so that
all of WriteShard (spool, sorted tar, metadata, ledger, hashes, commit) is paid for.

    python -m benchmarks.fetch_only LIST.parquet OUTPUT --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq

from facecap.pipeline.execution import execute
from facecap.pipeline.local import LocalEngine
from facecap.pipeline.plan import Plan, make_plan, read_footers
from facecap.pipeline.settings import Settings
from facecap.schemas.captions import Caption
from facecap.schemas.sample import Crop, Face, ImageInfo, Sample, SampleBatch
from facecap.transforms import coders as _coders  # noqa: F401 - registers SampleBatch's coder
from facecap.transforms.caption_columns import CaptionConfig
from facecap.transforms.download import Download, DownloadOptions
from facecap.transforms.read_rows import BATCH_SIZE, ReadRows
from facecap.transforms.store import Store
from facecap.transforms.worker import Run
from facecap.transforms.write_shard import ShardResult, WriteConfig, WriteShard

CLOCK = "clock-"


class Result(TypedDict):
    """`seconds` from the first row read to the last commit, `start_up` before it; `images` are
    the bodies written; `cpu` the user and system seconds of the workers in that time."""

    seconds: float
    start_up: float
    images: int
    rows: int
    cpu: float


_first_row: tuple[float, float] | None = None
"""Seconds since the epoch and CPU seconds of this process when its first row came by."""


class MarkFirstRow(beam.DoFn):
    def process(self, batch: SampleBatch) -> Iterator[SampleBatch]:
        global _first_row
        if _first_row is None:
            _first_row = (time.time(), time.process_time())
        yield batch


class MarkCommit(beam.DoFn):
    """Keeps a file per process: its first row, its last commit, the CPU seconds in between."""

    def __init__(self, output: str) -> None:
        self._output = output

    def process(self, result: ShardResult) -> Iterator[ShardResult]:
        assert _first_row is not None
        now, cpu = time.time(), time.process_time() - _first_row[1]
        Path(self._output, f"{CLOCK}{os.getpid()}").write_text(
            json.dumps([_first_row[0], now, cpu])
        )
        yield result


def bodies_as_faces(batch: SampleBatch) -> SampleBatch:
    """Give each fetched image one face, whose crop is the whole body."""
    return replace(batch, samples=tuple(map(_body_as_face, batch.samples)))


_PROBABILITIES = np.zeros(0, np.float32)
_ORIGIN = (0.0, 0.0)


def _body_as_face(sample: Sample) -> Sample:
    if sample.drop is not None or sample.fetched is None or sample.fetched.body is None:
        return sample
    crop = Crop(sample.fetched.body, 0, 0, "none", 0.0, 0.0, 0.0, 0.0, "", 1.0)
    face = Face(
        rank=0,
        box=(0.0, 0.0, 0.0, 0.0),
        score=0.0,
        landmarks=(_ORIGIN, _ORIGIN, _ORIGIN, _ORIGIN, _ORIGIN),
        crop=crop,
        probabilities=_PROBABILITIES,
        captions=(Caption("", (), "person"),),
    )
    return replace(sample, image=ImageInfo("", 0, 0), faces=(face,))


def run(list_path: str | Path, output: str | Path, workers: int) -> Result:
    """Fetch every URL of a Parquet list into shards under `output`, a new folder.

    The hosts of the list may be private; none has a limit of its own.
    """
    store = Store(Path(output).resolve())
    store.root.mkdir(parents=True)
    settings = Settings()
    plan = make_plan(read_footers([str(list_path)]), settings.input, str(list_path), None, None)
    download = DownloadOptions(
        allow_private_hosts=_hosts(plan),
        per_host=settings.download.concurrency,
    )
    write = WriteConfig(
        str(store.root), "fetch-only", plan.extra, "{}", 0, settings.decode, CaptionConfig()
    )

    def add_graph(pipeline: beam.Pipeline, run: Run) -> beam.PCollection:
        return (
            pipeline
            | "Shards" >> beam.Create(plan.specs())
            | "Spread" >> beam.Reshuffle()
            | "ReadRows" >> ReadRows(str(store.root), plan.columns, run)
            | "MarkFirstRow" >> beam.ParDo(MarkFirstRow()).with_output_types(SampleBatch)
            | "Download" >> Download(download, BATCH_SIZE)
            | "BodiesAsFaces" >> beam.Map(bodies_as_faces).with_output_types(SampleBatch)
            | "WriteShard" >> WriteShard(write)
            | "MarkCommit" >> beam.ParDo(MarkCommit(str(store.root)))
            | "Statistics" >> beam.combiners.ToList()
            | "Check" >> beam.Map(partial(_write_summary, str(store.root)))
        )

    # Workers unpickle this module's functions by name.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    started = time.time()
    execute(LocalEngine(workers, []), add_graph, store, frozenset(), None, 0.0, lambda _: None)
    clocks = [json.loads(path.read_text()) for path in store.root.glob(f"{CLOCK}*")]
    first, last = min(c[0] for c in clocks), max(c[1] for c in clocks)
    summary = json.loads(store.read("summary.json"))
    if summary["errors"] or summary["rows"] != plan.rows:
        raise RuntimeError(f"not all rows were committed: {summary} of {plan.rows}")
    return Result(
        seconds=last - first,
        start_up=first - started,
        images=summary["images"],
        rows=summary["rows"],
        cpu=sum(c[2] for c in clocks),
    )


def _write_summary(output: str, results: list) -> None:
    summary = {
        "rows": sum(r.counts.rows for r in results),
        "images": sum(r.counts.faces_kept for r in results),
        "errors": [r.error for r in results if r.error],
    }
    Store(output).replace("summary.json", json.dumps(summary).encode())


def _hosts(plan: Plan) -> tuple[str, ...]:
    tables = (pq.read_table(file.path, columns=[plan.columns.url]) for file in plan.files)
    return tuple(sorted({urlsplit(url).netloc for t in tables for url in t[0].to_pylist()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list")
    parser.add_argument("output")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    result = run(args.list, args.output, args.workers)
    rate, cost = result["images"] / result["seconds"], 1000 * result["cpu"] / result["images"]
    print(json.dumps(result))
    print(f"{rate:.0f} images/s, {cost:.2f} CPU seconds of the workers per 1,000 images")


if __name__ == "__main__":
    from benchmarks import fetch_only  # under its own name, for the workers

    fetch_only.main()
