"""A build of which every third URL is hostile: time, memory, and what became of every row.

    python -m benchmarks.hostile --rows 12000

Two thirds are photographs of FACECAP_TEST_DATA, served by nginx; one third goes through every
misbehaviour of tests/hostile.py, on another address of loopback, and through URLs that are wrong
by themselves. The list is in no order that helps. Detector: SCRFD-500m of FACECAP_TEST_MODELS.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.hostile import HostileServer

from benchmarks import data, watch
from benchmarks.server import Server, SetupError, photographs, serve, write_list

HOSTILE_HOST = "127.0.0.2"
SETTINGS = (
    # What a user with many slow hosts would set: a third of the default deadline, one retry. The
    # limit per host is out of the way, for all is on two hosts here.
    "download.timeout_s=10",
    "download.retries=1",
    "download.per_host=128",
)
WRONG = (
    "",
    "not a URL",
    "http://",
    "http:///a.jpg",
    "http://a..b/a.jpg",
    f"http://{'a' * 64}.example/a.jpg",
    "http://\u2603.invalid/a.jpg",
    "http://xn--a.invalid/a.jpg",
    "http://no-such-name.invalid/a.jpg",
    "http://%ff/a.jpg",
    "http://a\0b/a.jpg",
    "http://user:pass@/a.jpg",
    "http://127.0.0.1:99999/a.jpg",
    "http://[::1]/a.jpg",
    "http://[::ffff:10.0.0.1]/a.jpg",
    "http://10.0.0.1/a.jpg",
    "http://169.254.169.254/latest/meta-data/",
    "http://0x0a.1/a.jpg",
    "file:///etc/passwd",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "ftp://192.0.2.1/a.jpg",
    "http://a.invalid/" + "a" * 100_000,
)


@dataclass
class Held:
    """The most that all processes of the build held at one moment, and at the last look."""

    pss: int = 0
    sockets: int = 0
    last_sockets: int = 0
    pss_by_quarter: list[int] = field(default_factory=list)


def hostile_list(path: Path, data_folder: Path, good: Server, bad: HostileServer, rows: int) -> int:
    """Write the list; returns how many of its URLs are hostile."""
    third = rows // 3
    write_list(path, photographs(data_folder), good, rows - third)
    urls = pq.read_table(path)["url"].to_pylist()
    cycle = [*bad.urls(), *WRONG]
    for number in range(third):
        url = cycle[number % len(cycle)]
        urls.append(f"{url}?{number}" if HOSTILE_HOST in url else url)
    random.Random(1).shuffle(urls)
    pq.write_table(pa.table({"url": urls, "TEXT": [f"alt text {n}" for n in range(rows)]}), path)
    return third


def sockets_of(pid: int) -> int:
    count = 0
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            count += str(link.readlink()).startswith("socket:")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return count  # it ends just now
    return count


def run(command: list[str], log: Path) -> tuple[int, float, Held]:
    """Exit code, seconds and what was held."""
    held, samples = Held(), []
    start = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        while process.poll() is None:
            pids = list(watch._session(process.pid))
            samples.append(sum(map(watch._pss, pids)))
            sockets = sum(map(sockets_of, pids))
            held.sockets = max(held.sockets, sockets)
            held.last_sockets = sockets or held.last_sockets
            time.sleep(0.25)
    seconds = time.monotonic() - start
    held.pss = max(samples)
    size = max(1, -(-len(samples) // 4))
    held.pss_by_quarter = [max(samples[i : i + size]) for i in range(0, len(samples), size)]
    left = watch._session(process.pid)
    if left:
        print(f"LEFT BEHIND: processes {sorted(left)}")
    return process.returncode, seconds, held


def connections_left(ports: set[int]) -> Counter[str]:
    """TCP connections to the servers that still exist, by state (06 is TIME_WAIT)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return Counter(f[3] for f in fields if int(f[2].rpartition(":")[2], 16) in ports)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    try:
        data_folder, model = data.test_data()
        with (
            tempfile.TemporaryDirectory(prefix="facecap-hostile-") as folder,
            serve(data_folder) as good,
            HostileServer(HOSTILE_HOST) as bad,
        ):
            return report(Path(folder), data_folder, model, good, bad, arguments)
    except SetupError as error:
        print(f"benchmarks.hostile: {error}", file=sys.stderr)
        return 2


def report(
    folder: Path,
    data_folder: Path,
    model: Path,
    good: Server,
    bad: HostileServer,
    arguments: argparse.Namespace,
) -> int:
    urls, output, log = folder / "urls.parquet", folder / "out", folder / "log"
    hostile = hostile_list(urls, data_folder, good, bad, arguments.rows)
    settings = (
        *SETTINGS,
        "input.caption_column=TEXT",
        "detect.model=scrfd-500m",
        f"detect.model_path={model}",
        f"download.allow_private_hosts=['{good.host}','{HOSTILE_HOST}']",
    )
    command = [sys.executable, "-m", "facecap.pipeline.cli", "build", "--input", str(urls)]
    command += ["--output", str(output), "--workers", str(arguments.workers)]
    command += [flag for setting in settings for flag in ("--set", setting)]
    code, seconds, held = run(command, log)
    # The black hole is made of the server's own connections.
    ports = {port for name, port in bad.ports.items() if name != "black-hole"}
    left = connections_left({good.port, *ports})
    print(f"{arguments.rows} URLs, {hostile} of them hostile; settings: {' '.join(SETTINGS)}")
    print(f"exit code {code}, {seconds:.1f} s, {arguments.rows / seconds:.1f} URLs/s")
    quarters = ", ".join(f"{pss / 1e9:.2f}" for pss in held.pss_by_quarter)
    print(f"peak memory of all processes (PSS) {held.pss / 1e9:.2f} GB; by quarter: {quarters}")
    print(f"sockets: {held.sockets} at most, {held.last_sockets} at the last look")
    print(f"connections left afterwards: {dict(left) or 'none'}")
    print(log.read_text(errors="replace").strip())
    manifest = output / "dataset.json"
    if manifest.exists():
        funnel = json.loads(manifest.read_text())["funnel"]
        for reason, count in sorted(funnel["rows_dropped"].items(), key=lambda item: -item[1]):
            print(f"{count:7d} {reason}")
    return code


if __name__ == "__main__":
    sys.exit(main())
