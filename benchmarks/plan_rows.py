"""What it takes to plan a list of 50 million rows: seconds, memory, the size of the graph.

    python -m benchmarks.plan_rows [--rows 50000000] [--files 128]

writes a Parquet list with LAION-400M's columns into a temporary folder, plans it in a process of
its own as `facecap build` does, makes the Beam graph, and prints the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_list(folder: Path, rows: int, files: int) -> None:
    """`files` Parquet files of equal columns that together hold `rows` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, rest = divmod(rows, files)
    for length in {whole, whole + 1} if rest else {whole}:
        numbers = range(length)
        table = pa.table(
            {
                "SAMPLE_ID": pa.array(numbers, pa.float64()),
                "URL": [f"http://host{n % 97}/{n % 1000}.jpg" for n in numbers],
                "TEXT": [f"alt text {n % 1000}" for n in numbers],
                "HEIGHT": pa.array([480] * length, pa.int32()),
                "WIDTH": pa.array([640] * length, pa.int32()),
                "LICENSE": ["?"] * length,
                "NSFW": ["UNLIKELY"] * length,
                "similarity": pa.array([0.3] * length, pa.float64()),
            }
        )
        pq.write_table(table, folder / f"rows{length}.source")
    for number in range(files):
        length = whole + (number < rest)
        target = folder / f"part-{number:05d}-of-{files:05d}.snappy.parquet"
        shutil.copyfile(folder / f"rows{length}.source", target)
    for source in folder.glob("*.source"):
        source.unlink()


def measure(location: str) -> dict[str, float | int]:
    """Plan the list at `location` and make its graph, in this process."""
    from apache_beam import Pipeline

    from facecap.pipeline.graph import add_graph
    from facecap.pipeline.output import BuildFile
    from facecap.pipeline.plan import describe_sources, make_plan, read_footers
    from facecap.pipeline.settings import load_settings
    from facecap.pipeline.sources import find_sources
    from facecap.transforms.worker import Run

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    settings = load_settings(overrides=["crop.min_score=0.98", "input.where=similarity > 0.25"])
    sources = find_sources(location)
    files = read_footers([source.path for source in sources])
    plan = make_plan(files, settings.input, location, None, None)
    specs = plan.specs()
    planned = time.perf_counter()
    build = BuildFile(
        fingerprint="0" * 64,
        rows_per_shard=plan.rows_per_shard,
        shards=plan.shards,
        settings={},
        models={},
        input=describe_sources(sources, plan, None),
    )
    pipeline = Pipeline(runner="FnApiRunner")
    add_graph(pipeline, specs, settings, plan, build, "out", Run())
    graph = pipeline.to_runner_api().SerializeToString()
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": plan.rows,
        "files": len(files),
        "specs": len(specs),
        "plan_s": round(planned - start, 2),
        "graph_s": round(done - planned, 2),
        "peak_rss_mb": round(peak / 1024),
        "peak_rss_after_imports_mb": round(imported / 1024),
        "graph_bytes": len(graph),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--files", type=int, default=128)
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder), options.rows, options.files)
        # A process of its own: the peak is that of planning, not of writing the list.
        command = [sys.executable, "-m", "benchmarks.plan_rows", "--measure", folder]
        subprocess.run(command, check=True, env=dict(os.environ))


if __name__ == "__main__":
    main()
