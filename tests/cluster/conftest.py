"""Buckets, a Spark cluster and the photographs, all on loopback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import fsspec
import pytest

from tests import builds
from tests.cluster.engines import (
    BUILT,
    SAID,
    Built,
    Spark,
    build,
    many_command,
    standalone,
)
from tests.cluster.services import Bucket, gcs_bucket, s3_bucket
from tests.servers import ImageServer, Route

# Read when gcsfs is imported: it would ask a gRPC service that no emulator has, for a minute each.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

SERVERS: dict[str, Callable[[Path], AbstractContextManager[Bucket]]] = {
    "s3": s3_bucket,
    "gs": gcs_bucket,
}


@pytest.fixture(scope="session", params=list(SERVERS))
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bucket]:
    """An empty bucket; this process, and those it starts, are led to its server."""
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(SERVERS[request.param](tmp_path_factory.mktemp(request.param)))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in found.environment.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        fs, path = fsspec.core.url_to_fs(found.url, skip_instance_cache=True)
        fs.mkdir(path)
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The builds of this run side by side, and what the fault runs did."""
    if BUILT:
        terminalreporter.section("builds")
        terminalreporter.line(f"{'engine':34} shards  faces  seconds  sha256 of all files' hashes")
        for b in BUILT:
            terminalreporter.line(
                f"{b.engine:34} {b.shards:6}  {b.faces:5}  {b.seconds:7.1f}  {b.sha256}"
            )
    for line in SAID:
        terminalreporter.line(line)


@pytest.fixture(scope="session")
def many_server(photographs: dict[str, bytes]) -> Iterator[ImageServer]:
    """Serves all photographs that are here: those of FACECAP_TEST_DATA too, where it is set."""
    served: dict[str, bytes | Route] = dict(builds.routes(photographs))
    if folder := os.environ.get("FACECAP_TEST_DATA"):
        for path in sorted(Path(folder, "photos").rglob("*")):
            if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
                served[f"/{path.parent.name}/{path.name}"] = path.read_bytes()
    with ImageServer(served) as server:
        yield server


@pytest.fixture(scope="session")
def many(many_server: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of all of them, each once."""
    folder = tmp_path_factory.mktemp("many")
    return builds.write_list(folder / "urls.parquet", many_server, len(many_server.routes))


@pytest.fixture(scope="session")
def reference(
    many: Path, many_server: ImageServer, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """The local runner's build of that list, with two worker processes."""
    output = tmp_path_factory.mktemp("reference") / "out"
    arguments = many_command(many, output, many_server, "--workers", "2")
    return build("local, 2 processes", arguments, output)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """A standalone cluster of two workers."""
    with standalone(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster
