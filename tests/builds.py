"""What the end-to-end and fault tests share: a list over real photographs, builds in processes
of their own, and the bytes that must be equal."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.servers import ImageServer, Route

FAST = (
    "crop.min_side=80",
    "attributes.min_labels=1",
    "download.timeout_s=5",
    "download.retries=0",
    "build.rows_per_shard=6",
)
"""Settings under which the small photographs of the packages give faces."""

DATA_FOLDERS = ("shards", "metadata", "ledger", "rejects")


def routes(photographs: dict[str, bytes]) -> dict[str, bytes | Route]:
    """The photographs, and some of what a crawler meets."""
    return {
        **photographs,
        "/private": Route(status=302, headers={"Location": "http://10.1.2.3/a.jpg"}),
        "/error": Route(status=503),
        "/reserved.jpg": Route(photographs["/astronaut.png"], headers={"X-Robots-Tag": "noai"}),
    }


def write_list(path: Path, server: ImageServer, rows: int) -> Path:
    """A Parquet list of `rows` URLs that cycles over everything the server knows."""
    names = sorted(server.routes)
    cycle = [names[i % len(names)] for i in range(rows)]
    table = pa.table(
        {
            "URL": [f"{server.url(name)}?{i}" for i, name in enumerate(cycle)],
            "TEXT": [f"alt text {i}" for i in range(rows)],
            "similarity": pa.array([i / rows for i in range(rows)], pa.float32()),
            "caption": [f"another column's caption {i}" for i in range(rows)],
        }
    )
    pq.write_table(table, path)
    return path


def command(
    input: Path, output: Path, server: ImageServer, *more: str, sets: Sequence[str] = ()
) -> list[str]:
    """The command line of a build, as a user would type it."""
    settings = [*FAST, "input.caption_column=TEXT", *sets]
    settings.append(f"download.allow_private_hosts=['{server.host_port}']")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    return [
        *(sys.executable, "-m", "facecap.pipeline.cli", "build"),
        *("--input", str(input), "--output", str(output), *flags, *more),
    ]


def run(
    arguments: list[str], cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run to the end; a hang is a failure."""
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, cwd=cwd)


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start in a process group of its own, so that it can be killed with its workers."""
    return subprocess.Popen(
        arguments,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(process: subprocess.Popen[bytes], *, group: bool) -> None:
    """SIGKILL the launcher alone, or the whole group."""
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def dataset_bytes(output: Path) -> dict[str, str]:
    """sha256 of every file of the dataset that must not depend on how it was built."""
    names = [p for folder in DATA_FOLDERS for p in sorted((output / folder).iterdir())]
    names.append(output / "dataset.json")
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def ledger(output: Path) -> list[dict[str, object]]:
    """All rows of the ledger, in order."""
    files = sorted((output / "ledger").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]
