"""Real servers of the two storage protocols on loopback, and where the tools of `make
test-cluster` lie."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "build" / "tools"
"""What `make test-cluster` fetches and builds: job servers, prism, fake-gcs-server."""


def tool(name: str) -> Path:
    """A tool's path; skips where `make test-cluster` has not brought it."""
    path = TOOLS / name
    if not path.exists():
        pytest.skip(f"{name} is not there; make test-cluster brings it")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def service(
    command: list[str], port: int, log: Path, host: str = "127.0.0.1", **environment: str
) -> Iterator[int]:
    """A server in a process of its own, until the block ends; yields its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    try:
        wait_for(
            lambda: _listens(host, port), 60, f"{command[0]}: {log.read_text(errors='replace')}"
        )
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def wait_for(happened: object, seconds: float, what: str) -> None:
    """Until `happened()` is true; fails with `what` after `seconds`."""
    assert callable(happened)
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.1)


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


@dataclass(frozen=True)
class Bucket:
    """A bucket on a server on loopback: its URL, and the environment that leads clients there."""

    url: str
    environment: Mapping[str, str]


@contextlib.contextmanager
def s3_bucket(folder: Path) -> Iterator[Bucket]:
    """moto's server speaks S3's protocol, conditional writes included."""
    pytest.importorskip("s3fs")
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        pytest.skip("moto's server is not installed; make test-cluster brings it")
    port = free_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
    with service(command, port, folder / "moto.log"):
        yield Bucket("s3://facecap-test", environment)


@contextlib.contextmanager
def gcs_bucket(folder: Path) -> Iterator[Bucket]:
    """fake-gcs-server speaks Google Cloud Storage's, preconditions included."""
    pytest.importorskip("gcsfs")
    program, port = tool("fake-gcs-server"), free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "GOOGLE_CLOUD_PROJECT": "facecap-test",
        "FSSPEC_GS_TOKEN": "anon",
        "FSSPEC_GCS_TOKEN": "anon",
    }
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-external-url", address]
    with service(command, port, folder / "gcs.log"):
        yield Bucket("gs://facecap-test", environment)


def java() -> str:
    """The Java that Spark runs on; skips where there is none."""
    program = shutil.which("java")
    if program is None:
        pytest.skip("no java")
    return program
