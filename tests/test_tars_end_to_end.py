"""Tars as input, for real: the faces of a build from tars are those of a build from the URLs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import builds, tars
from tests.servers import ImageServer

SETS = ["build.rows_per_shard=null", "input.caption_column=null"]


@pytest.fixture(scope="module")
def folder(photographs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tars, the second empty, the third cut; each with img2dataset's files beside it."""
    folder = tmp_path_factory.mktemp("tars")
    rows = [
        tars.row(f"{n:07d}", body, f"http://h.example{name}", f"alt {name}", similarity=n / 10)
        for n, (name, body) in enumerate(sorted(photographs.items()))
    ]
    for number, part in enumerate((rows[:3], [], rows[:2], rows[3:])):
        path = tars.write_tar(folder / f"{number:05d}.tar", part)
        path.with_suffix(".parquet").write_bytes(b"beside the tar")
        path.with_name(f"{path.stem}_stats.json").write_text("{}")
    data = (folder / "00002.tar").read_bytes()
    (folder / "00002.tar").write_bytes(data[: len(data) - 12_000])
    return folder


def command(folder: Path, output: Path, *more: str) -> list[str]:
    class NoServer:
        host_port = "127.0.0.1:1"

    return builds.command(folder, output, NoServer(), *more, sets=SETS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dataset(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "out"
    result = builds.run(command(folder, output, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    assert "nothing is downloaded" in result.stderr
    return output


def faces(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    files = sorted((output / "metadata").iterdir())
    return {
        (row["url"].split("/")[-1].partition("?")[0], row["face_rank"]): row
        for file in files
        for row in pq.read_table(file).to_pylist()
    }


def test_the_faces_are_those_of_a_build_from_the_urls(
    dataset: Path, photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    arguments = builds.command(photo_list, tmp_path / "out", photo_server, "--workers", "1")
    assert builds.run(arguments).returncode == 0
    ours, theirs = faces(dataset), faces(tmp_path / "out")
    assert ours.keys() == theirs.keys() and len(ours) >= 7
    for key, face in ours.items():
        for name in ("box", "landmarks", "score", "probabilities", "labels", "phash", "sha256"):
            assert face[name] == theirs[key][name], (key, name)
        assert face["source_caption"].startswith("alt /") and face["similarity"] is not None


def test_rows_are_numbered_by_tar_and_every_one_is_accounted_for(dataset: Path) -> None:
    rows = builds.ledger(dataset)
    by_tar: dict[int, list[int]] = {}
    for row in rows:
        number, index = divmod(int(str(row["row"])), 1_000_000)
        by_tar.setdefault(number, []).append(index)
    assert sorted(by_tar) == [0, 2, 3]
    assert all(indices == list(range(len(indices))) for indices in by_tar.values())
    cut = [row for row in rows if int(str(row["row"])) // 1_000_000 == 2]
    assert [row["reason"] for row in cut if row["stage"] == "read"] == ["damaged_tar"]
    assert all(row["http_status"] is None for row in rows)
    verify = [*command(dataset, dataset)[:3], "verify", str(dataset)]
    sound = builds.run(verify)
    assert (sound.returncode, sound.stdout) == (0, "sound: 4 shards\n"), sound


def test_kills_and_workers_change_no_byte(folder: Path, dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = command(folder, output, "--workers", "2")
    process = builds.start(arguments)
    deadline = time.monotonic() + 60
    while not any(output.glob("commits/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    builds.kill(process, group=True)
    result = builds.run(arguments)
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(output) == builds.dataset_bytes(dataset)
    again = builds.run(arguments)
    assert again.returncode == 0 and "URLs are done already" in again.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "5"], "--limit: tars are counted while they are read"),
        (["--set", "build.rows_per_shard=5"], "build.rows_per_shard: one tar of the input"),
        (["--set", "input.hash_column=nosuch"], "input.hash_column: the input has no further"),
        (["--set", "screen.block_urls=nosuch.txt"], "screen.block_urls: nosuch.txt: no such file"),
        (["--set", "input.where=nosuch > 1"], "input.where: "),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    result = builds.run(command(folder, tmp_path / "out", *more))
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert result.stderr.splitlines()[-1].startswith("facecap: ") and "Trace" not in result.stderr
