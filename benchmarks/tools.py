"""The command lines of the tools that are compared, and what their runs have written."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.server import Server
from facecap.schemas.commit import CommitRecord
from facecap.schemas.outcomes import Stage

WORKERS = 2
HERE = Path(__file__).parent
PEERS_PYTHON = HERE / ".venv-peers" / "bin" / "python"

ROWS_PER_SHARD = 188
"""What a build of 12,000 rows takes by default, kept for shorter runs."""

IMG2DATASET_SHARDS = 4 * WORKERS
"""Enough to keep its processes busy to the end; one process is used for five shards at most."""


def facecap(urls: Path, output: Path, server: Server, model: Path) -> list[str]:
    """A whole build with SCRFD-500m. robots.txt is respected, as by default; the limit per host is
    out of the way."""
    settings = [
        "input.caption_column=TEXT",
        "detect.model=scrfd-500m",
        f"detect.model_path={model}",
        f"download.allow_private_hosts=['{server.host}']",
        "download.per_host=128",
        f"build.rows_per_shard={ROWS_PER_SHARD}",
    ]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    return [
        *(sys.executable, "-m", "facecap.pipeline.cli", "build", "--workers", str(WORKERS)),
        *("--input", str(urls), "--output", str(output), *flags),
    ]


def fetch_only(urls: Path, output: Path) -> list[str]:
    """Our ReadRows, Download and WriteShard alone (benchmarks/fetch_only.py)."""
    module = [sys.executable, "-m", "benchmarks.fetch_only"]
    return [*module, str(urls), str(output), "--workers", str(WORKERS)]


def facecap_last_commit(output: Path) -> float:
    """When the last shard was committed, seconds since the epoch."""
    return max(p.stat().st_mtime for p in (output / "commits").iterdir())


def facecap_images(output: Path) -> int:
    """How many of the images in its commit records were fetched and decoded."""
    paths = sorted((output / "commits").iterdir())
    records = (CommitRecord.from_json(path.read_bytes(), str(path)) for path in paths)
    return sum(record.counts.rows_after(Stage.DECODE) for record in records)


def img2dataset(urls: Path, output: Path, threads: int, *options: str) -> list[str]:
    """img2dataset with tars as output, sha256 of every body and our number of retries."""
    rows = pq.ParquetFile(urls).metadata.num_rows
    return [
        *(str(PEERS_PYTHON.with_name("img2dataset")), "--url_list", str(urls)),
        *("--input_format", "parquet", "--url_col", "url", "--caption_col", "TEXT"),
        *("--output_folder", str(output), "--output_format", "webdataset"),
        *("--processes_count", str(WORKERS), "--thread_count", str(threads)),
        *("--number_sample_per_shard", str(-(-rows // IMG2DATASET_SHARDS))),
        *("--compute_hash", "sha256", "--extract_exif", "False", "--retries", "2"),
        *("--timeout", "30", "--enable_wandb", "False", *options),
    ]


WITHOUT_DECODING = ("--disable_all_reencoding", "True")
AT_640 = (
    *("--image_size", "640", "--resize_mode", "keep_ratio_largest"),
    *("--resize_only_if_bigger", "True", "--encode_format", "jpg"),
)
"""What the detector's 640 x 640 needs, and no small photograph enlarged: the fastest for it."""


def img2dataset_last_commit(output: Path) -> float:
    """When the last shard was finished: its statistics are written after its files are closed."""
    return max(float(s["end_time"]) for s in _stats(output))


def img2dataset_images(output: Path) -> int:
    """How many images it wrote."""
    return sum(int(s["successes"]) for s in _stats(output))


def _stats(output: Path) -> list[dict[str, float]]:
    return [json.loads(p.read_text()) for p in sorted(output.glob("*_stats.json"))]


def scrfd_loop(model: Path, threads: int, output: Path, tars: list[Path]) -> list[str]:
    """The loop of benchmarks/peers/scrfd_loop.py; 0 threads: ONNX Runtime's default."""
    script = HERE / "peers" / "scrfd_loop.py"
    return [str(PEERS_PYTHON), str(script), str(model), str(threads), str(output), *map(str, tars)]


def together(commands: list[list[str]]) -> list[str]:
    """One command that runs all of them at once; it fails when one of them does."""
    if len(commands) == 1:
        return commands[0]
    started = "".join(f'{shlex.join(command)} & pids="$pids $!"\n' for command in commands)
    return ["/bin/sh", "-c", f"{started}for pid in $pids; do wait $pid || exit 1; done"]


def loop_times(output: Path) -> tuple[float, float, int]:
    """When a loop began with its first photograph and ended, and how many it has seen."""
    result = json.loads(output.read_text())
    return result["started"], result["ended"], len(result["photos"])
