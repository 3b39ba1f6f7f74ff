"""Full and read-only disks, real ones: one clear line, nothing half committed, and with room the
same command ends in the same bytes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import store as store_module
from facecap.transforms import worker
from facecap.transforms.caption_columns import CaptionConfig
from facecap.transforms.commit import finish, read_record
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.store import DiskFailed, Store
from facecap.transforms.write_shard import ShardWriter, WriteConfig
from tests import builds
from tests.samples import random_sample
from tests.servers import ImageServer

ROWS = 100
SPEC = ShardSpec(0, 0, (InputRange("x", 0, ROWS),))


class Disk:
    """A tmpfs; making one needs root, or the test is skipped."""

    def __init__(self, folder: Path, kib: int) -> None:
        self.folder = folder
        folder.mkdir()
        made = self._mount(f"size={kib}k", "tmpfs")
        if made.returncode:
            pytest.skip(f"cannot mount a tmpfs: {made.stderr.strip()}")

    def _mount(self, option: str, *source: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", option, *source, str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True)

    def change(self, option: str) -> None:
        self._mount(f"remount,{option}").check_returncode()

    def close(self) -> None:
        # Lazily: the workers of a failed build take half a second to end.
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk", 10_000)
    yield disk
    disk.close()


@functools.cache
def finished_samples() -> tuple[Sample, ...]:
    rng = random.Random(3)
    return tuple(random_sample(row, rng) for row in range(ROWS))


def build_shard(output: Path) -> None:
    """One attempt at a shard of 100 rows, as a worker makes it."""
    extra = pa.schema([("similarity", pa.float64())])
    config = WriteConfig(str(output), "f", extra, "{}", 8, DecodeOptions(), CaptionConfig())
    writer = ShardWriter(SPEC, config, Store(output))
    try:
        writer.add(SampleBatch(SPEC, finished_samples()))
        writer.close()
    finally:
        writer.abandon()


def digests(output: Path) -> dict[str, str]:
    files = [p for name in builds.DATA_FOLDERS for p in (output / name).iterdir()]
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_disk_that_fills_up_at_any_moment_of_a_shard(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool, the tars, the Parquet files, the record: the disk is full in each of them."""
    monkeypatch.setattr(store_module, "SPOOL_BYTES", 1)  # as the spool of a large shard
    build_shard(tmp_path / "undisturbed")
    expected = digests(tmp_path / "undisturbed")
    failed_in: set[str] = set()
    for kib in range(4, 400, 16):
        output = disk.folder / f"{kib}"
        output.mkdir()
        store = Store(output)
        disk.change(f"size={kib}k")
        try:
            build_shard(output)
            failed_in.add("nothing")
        except DiskFailed as failed:
            assert str(failed) == (
                f"{output}: No space left on device; make room there and give the same command "
                "to continue"
            )
            written = {p.name for p in output.glob("_attempts/*/*")}
            failed_in.add("record" if "rejects" in written else f"{sorted(written)}")
        disk.change("size=10000k")
        record = read_record(store, 0)  # whole, or not there
        if record is None:
            assert not (output / "shards").exists()
            assert not list(output.glob("commits/.*")), "half a record takes room"
            build_shard(output)
        else:
            finish(store, record)
        assert digests(output) == expected
        store.remove_tree(".")
    assert {"[]", "['tar']", "['metadata', 'tar']", "nothing"} < failed_in


def test_a_disk_that_becomes_read_only(disk: Disk) -> None:
    store = Store(disk.folder)
    store.create("before", b"x")
    disk.change("ro")
    for attempt in (
        lambda: store.create("commits/a", b"x"),
        lambda: store.replace("before", b"y"),
        lambda: store.move("before", "after"),
        lambda: store.remove_tree("."),
        store.spool,
    ):
        with pytest.raises(DiskFailed, match="Read-only file system; make it writable"):
            attempt()
    disk.change("rw")
    assert store.read("before") == b"x"


def test_a_worker_that_starts_on_a_full_disk_is_told_so(disk: Disk) -> None:
    """Not by SIGBUS: its rows in flight are kept in a mapped file."""
    (disk.folder / "run").mkdir()
    with (disk.folder / "ballast").open("wb", buffering=0) as ballast:
        with contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
    code = (
        "import sys; from facecap.transforms import store, worker\n"
        "try: worker.start(worker.Run(sys.argv[1] + '/run', sys.argv[1]))\n"
        "except store.DiskFailed as failed: print(failed)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(disk.folder)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{disk.folder}: No space left on device")


def test_progress_that_cannot_be_written_stops_nothing(disk: Disk) -> None:
    run = disk.folder / "run"
    run.mkdir()
    reporting = worker.Worker(worker.Run(str(run), str(disk.folder)), run)
    disk.change("size=8k")  # as much as there is
    reporting.write()
    assert not list(run.glob(".*"))
    disk.change("size=10000k")
    reporting.stop()
    assert worker.read_reports(run)


@pytest.fixture(scope="module")
def reference(
    photo_list: Path, photo_server: ImageServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    output = tmp_path_factory.mktemp("reference") / "out"
    result = builds.run(builds.command(photo_list, output, photo_server, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    return builds.dataset_bytes(output)


def check_line(stderr: str, output: Path, said: str) -> None:
    assert stderr.splitlines()[-1] == (
        f"facecap: {output}: {said} and give the same command to continue"
    )
    assert "Traceback" not in stderr and "Errno" not in stderr


@pytest.mark.parametrize("kib", [pytest.param(40, marks=pytest.mark.long), 700])
def test_a_build_on_a_full_disk_ends_with_one_line_and_continues(
    reference: dict[str, str], photo_list: Path, photo_server: ImageServer, disk: Disk, kib: int
) -> None:
    """700: some shards are committed. 40: not even the log fits."""
    output = disk.folder / "out"
    command = builds.command(photo_list, output, photo_server, "--workers", "2")
    disk.change(f"size={kib}k")
    result = builds.run(command)
    assert result.returncode == 1, result.stderr
    check_line(result.stderr, output, "No space left on device; make room there")
    disk.change("size=10000k")
    result = builds.run(command)
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(output) == reference
    assert not (output / "_attempts").exists()


def test_a_limit_on_the_size_of_files_needs_no_root(
    reference: dict[str, str], photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = builds.command(photo_list, output, photo_server, "--workers", "1")
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert result.returncode == 1, result.stderr
    check_line(result.stderr, output, "File too large; allow larger files there")
    result = builds.run(command)
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(output) == reference


def test_an_output_folder_that_is_read_only_is_refused_at_once(
    photo_list: Path, photo_server: ImageServer, disk: Disk
) -> None:
    disk.change("ro")
    result = builds.run(builds.command(photo_list, disk.folder / "new", photo_server))
    assert result.returncode == 2
    assert result.stderr == f"facecap: --output {disk.folder / 'new'}: Read-only file system\n"
