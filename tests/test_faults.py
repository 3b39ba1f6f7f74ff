"""Killed builds, racing builds, dying workers: always the same bytes, never a lost row."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests import builds
from tests.servers import ImageServer, Route


@pytest.fixture(scope="module")
def reference(
    photo_list: Path, photo_server: ImageServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], float]:
    """The bytes of a build that was never disturbed, and how long it took."""
    output = tmp_path_factory.mktemp("reference") / "out"
    started = time.monotonic()
    result = builds.run(builds.command(photo_list, output, photo_server, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    return builds.dataset_bytes(output), time.monotonic() - started


def kill_and_continue(
    seed: int,
    reference: tuple[dict[str, str], float],
    photo_list: Path,
    photo_server: ImageServer,
    output: Path,
) -> None:
    """Kill the build three times at random moments, then let it end."""
    expected, duration = reference
    rng = random.Random(seed)
    for _ in range(3):
        workers = rng.choice(("1", "2"))
        process = builds.start(
            builds.command(photo_list, output, photo_server, "--workers", workers)
        )
        # Start-up takes about a third of the time, and is the least interesting part.
        time.sleep(rng.uniform(0.3, 1.0) * duration)
        builds.kill(process, group=rng.random() < 0.5)
    result = builds.run(builds.command(photo_list, output, photo_server, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(output) == expected
    assert not (output / "_attempts").exists()


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 20))]
)
def test_a_killed_build_ends_in_the_same_bytes(
    seed: int,
    reference: tuple[dict[str, str], float],
    photo_list: Path,
    photo_server: ImageServer,
    tmp_path: Path,
) -> None:
    kill_and_continue(seed, reference, photo_list, photo_server, tmp_path / "out")


def test_two_builds_racing_into_one_folder_write_the_same_bytes(
    reference: tuple[dict[str, str], float],
    photo_list: Path,
    photo_server: ImageServer,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    arguments = builds.command(photo_list, output, photo_server, "--workers", "1")
    racers = [
        subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for racer in racers:
        _, errors = racer.communicate(timeout=120)
        assert racer.returncode == 0, errors
    assert builds.dataset_bytes(output) == reference[0]
    assert not (output / "_attempts").exists()


def test_a_killed_launcher_leaves_no_orphans(
    photographs: dict[str, bytes], photo_server: ImageServer, tmp_path: Path
) -> None:
    slow = {f"/{n}.jpg": Route(photographs["/astronaut.png"], delay=3) for n in range(40)}
    with ImageServer(slow) as server:
        listed = builds.write_list(tmp_path / "urls.parquet", server, 40)
        process = builds.start(
            builds.command(
                listed, tmp_path / "out", server, "--workers", "2", sets=["download.per_host=1"]
            )
        )
        pids = wait_for_workers(tmp_path / "out", 2)
        builds.kill(process, group=False)
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in pids)


def test_a_killed_worker_ends_the_build_and_the_same_command_continues(
    photographs: dict[str, bytes], tmp_path: Path
) -> None:
    slow = {f"/{n}.png": Route(photographs["/astronaut.png"], delay=0.3) for n in range(24)}
    with ImageServer(slow) as server:
        listed = builds.write_list(tmp_path / "urls.parquet", server, 24)
        arguments = builds.command(
            listed, tmp_path / "out", server, "--workers", "2", sets=["download.per_host=1"]
        )
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        pids = wait_for_workers(tmp_path / "out", 2)
        os.kill(sorted(pids)[0], 9)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and "killed" in errors, errors
        result = builds.run(arguments)
        assert result.returncode == 0, result.stderr
    assert [r["outcome"] for r in builds.ledger(tmp_path / "out")] == ["kept"] * 24


def wait_for_workers(output: Path, count: int) -> set[int]:
    """The process ids of a build's workers, once there are `count`."""
    deadline = time.monotonic() + 180  # on a busy machine
    while time.monotonic() < deadline:
        pids = {int(p.stem) for p in output.glob("_progress/*/*.json")}
        if len(pids) >= count:
            return pids
        time.sleep(0.05)
    raise AssertionError("the workers did not start")


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
