"""Captions made anew on other engines and in buckets: the local bytes, also after a kill."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from tests import builds
from tests.cluster import engines
from tests.cluster.services import Bucket, wait_for
from tests.llm_server import LlmServer
from tests.servers import ImageServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FACECAP = [sys.executable, "-m", "facecap.pipeline.cli"]
FLAGS: dict[str, Callable[[], list[str]]] = {
    "prism": engines.prism_flags,
    "spark, local[2]": lambda: engines.spark_flags("local[2]"),
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LlmServer]:
    with LlmServer(latency=40) as server:
        yield server


@pytest.fixture(scope="module")
def plain(
    photo_list: Path, photo_server: ImageServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dataset with the grammar's captions."""
    output = tmp_path_factory.mktemp("plain") / "out"
    result = builds.run(builds.command(photo_list, output, photo_server))
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="module")
def expected(
    plain: Path, llm: LlmServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The bytes of `plain` with the server's captions."""
    output = Path(shutil.copytree(plain, tmp_path_factory.mktemp("local") / "out"))
    result = builds.run(command(str(output), llm))
    assert result.returncode == 0, result.stderr
    return builds.dataset_bytes(output)


def command(output: str, server: LlmServer, *more: str) -> list[str]:
    sets = ["rewrite.backend=openai", f"rewrite.base_url={server.base_url}"]
    sets.append("rewrite.concurrency=1")
    return [*FACECAP, "recaption", output, *(f for s in sets for f in ("--set", s)), *more]


@pytest.mark.parametrize("engine", FLAGS)
def test_an_engine_writes_the_local_runners_bytes(
    engine: str, plain: Path, expected: dict[str, str], llm: LlmServer, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(plain, tmp_path / "out"))
    result = builds.run(command(str(output), llm, *FLAGS[engine]()), timeout=280)
    assert result.returncode == 0, f"{result.stderr}\n{engines.logs(output)}"
    assert builds.dataset_bytes(output) == expected


def test_in_a_bucket_killed_and_continued(
    bucket: Bucket, plain: Path, expected: dict[str, str], llm: LlmServer, tmp_path: Path
) -> None:
    fs, root = fsspec.core.url_to_fs(bucket.url, skip_instance_cache=True, use_listings_cache=False)
    place = f"recaption-{tmp_path.name}/out"
    for path in plain.rglob("*"):
        if path.is_file() and not path.relative_to(plain).parts[0].startswith(("_", "logs")):
            fs.put_file(str(path), f"{root}/{place}/{path.relative_to(plain)}")
    arguments = command(f"{bucket.url}/{place}", llm)
    killed = engines.start(arguments)
    commits = f"{root}/{place}/commits"
    wait_for(lambda: any(n.endswith(".2.json") for n in fs.ls(commits, detail=False)), 100, "one")
    builds.kill(killed, group=True)
    result = builds.run(arguments, timeout=200)
    assert result.returncode == 0, result.stderr
    verified = builds.run([*FACECAP, "verify", f"{bucket.url}/{place}"])
    assert verified.returncode == 0 and "sound" in verified.stdout, verified
    fs.get(f"{root}/{place}/", str(tmp_path / "copy"), recursive=True)
    assert builds.dataset_bytes(tmp_path / "copy") == expected
    assert not fs.exists(f"{root}/{place}/_attempts")
