"""Fetching alone: ReadRows -> Download -> WriteShard on Beam's FnApiRunner, with nothing decoded.

Every body goes to its shard's tar as if it were the crop of the one face of its image, so that
all of WriteShard (spool, sorted tar, metadata, ledger, hashes, commit) is paid for.

    python benchmarks/fetch_only.py LIST.parquet OUTPUT --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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

from facecap.pipeline.local import local_options, run_locally
from facecap.pipeline.plan import make_plan, read_footers
from facecap.pipeline.settings import Settings
from facecap.schemas.sample import Crop, Face, ImageInfo, Sample, SampleBatch
from facecap.transforms import coders as _coders  # noqa: F401 - registers SampleBatch's coder
from facecap.transforms.download import Download, DownloadOptions
from facecap.transforms.read_rows import BATCH_SIZE, ReadRows
from facecap.transforms.store import Store
from facecap.transforms.worker import Run
from facecap.transforms.write_shard import WriteConfig, WriteShard

FIRST_ROW = "first-row"


class Result(TypedDict):
    """`seconds` from the first row read to the last commit, `start_up` before it; `images` are
    the bodies written, `cpu` the user and system seconds of this process and its workers."""

    seconds: float
    start_up: float
    images: int
    rows: int
    cpu: float


class MarkFirstRow(beam.DoFn):
    """Notes when the first row of each process came by."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._noted = False

    def process(self, batch: SampleBatch) -> Iterator[SampleBatch]:
        if not self._noted:
            self._noted = True
            Path(self._output, f"{FIRST_ROW}-{os.getpid()}").write_text(repr(time.time()))
        yield batch


def bodies_as_faces(batch: SampleBatch) -> SampleBatch:
    """Give each fetched image one face, whose crop is the whole body."""
    return replace(batch, samples=tuple(map(_body_as_face, batch.samples)))


_CHIP = np.zeros((1, 1, 3), np.uint8)
_PROBABILITIES = np.zeros(0, np.float32)
_ORIGIN = (0.0, 0.0)


def _body_as_face(sample: Sample) -> Sample:
    if sample.drop is not None or sample.fetched is None or sample.fetched.body is None:
        return sample
    crop = Crop(sample.fetched.body, _CHIP, 0, 0, "none", 0.0, 0.0, 0.0, 0.0, "", 1.0)
    face = Face(
        rank=0,
        box=(0.0, 0.0, 0.0, 0.0),
        score=0.0,
        landmarks=(_ORIGIN, _ORIGIN, _ORIGIN, _ORIGIN, _ORIGIN),
        crop=crop,
        probabilities=_PROBABILITIES,
        raw_caption="",
        caption="",
    )
    return replace(sample, image=ImageInfo("", 0, 0), faces=(face,))


def run(list_path: str | Path, output: str | Path, workers: int) -> Result:
    """Fetch every URL of a Parquet list into shards under `output`, a new folder.

    The hosts of the list may be private; none has a limit of its own.
    """
    store = Store(Path(output).resolve())
    store.root.mkdir(parents=True)
    settings = Settings(
        download=DownloadOptions(
            allow_private_hosts=_hosts(list_path),
            per_host=DownloadOptions().concurrency,
        )
    )
    plan = make_plan(read_footers([str(list_path)]), settings.input, str(list_path), None, None)
    write = WriteConfig(str(store.root), "fetch-only", plan.extra, "{}", 0, settings.decode)

    def add_graph(pipeline: beam.Pipeline, run: Run) -> beam.PCollection:
        return (
            pipeline
            | "Shards" >> beam.Create(plan.specs())
            | "Spread" >> beam.Reshuffle()
            | "ReadRows" >> ReadRows(str(store.root), plan.columns, run)
            | "MarkFirstRow"
            >> beam.ParDo(MarkFirstRow(str(store.root))).with_output_types(SampleBatch)
            | "Download" >> Download(settings.download, BATCH_SIZE)
            | "BodiesAsFaces" >> beam.Map(bodies_as_faces).with_output_types(SampleBatch)
            | "WriteShard" >> WriteShard(write)
            | "Statistics" >> beam.combiners.ToList()
            | "Check" >> beam.Map(partial(_write_summary, str(store.root)))
        )

    # Workers unpickle this module's functions by name.
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [here, str(Path(here).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    before, started = _cpu(), time.time()
    run_locally(add_graph, local_options(workers, []), store, frozenset(), 0.0, lambda _: None)
    first = min(float(p.read_text()) for p in store.root.glob(f"{FIRST_ROW}-*"))
    last = max(p.stat().st_mtime for p in store.path("commits").glob("*.json"))
    summary = json.loads(store.read("summary.json"))
    if summary["errors"] or summary["rows"] != plan.rows:
        raise RuntimeError(f"not all rows were committed: {summary} of {plan.rows}")
    return Result(
        seconds=last - first,
        start_up=first - started,
        images=summary["images"],
        rows=summary["rows"],
        cpu=_cpu() - before,
    )


def _write_summary(output: str, results: list) -> None:
    summary = {
        "rows": sum(r.counts.rows for r in results),
        "images": sum(r.counts.faces_kept for r in results),
        "errors": [r.error for r in results if r.error],
    }
    Store(output).replace("summary.json", json.dumps(summary).encode())


def _hosts(list_path: str | Path) -> tuple[str, ...]:
    urls = pq.read_table(list_path, columns=["url"])["url"].to_pylist()
    return tuple(sorted({urlsplit(url).netloc for url in urls}))


def _cpu() -> float:
    """User and system seconds of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list")
    parser.add_argument("output")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    result = run(args.list, args.output, args.workers)
    print(json.dumps({**result, "images_per_second": round(result["images"] / result["seconds"])}))


if __name__ == "__main__":
    main()
