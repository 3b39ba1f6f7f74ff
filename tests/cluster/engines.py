"""A Spark standalone cluster on loopback, and what the engines' builds are compared by."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests import builds
from tests.cluster.services import free_port, java, service, tool, wait_for
from tests.servers import ImageServer

EXECUTOR = "CoarseGrainedExecutorBackend"


@dataclass(frozen=True)
class Spark:
    """A standalone cluster: its master's URL and the web interface's address."""

    master: str
    web: str

    def executors(self) -> list[psutil.Process]:
        """The JVMs of the executors, which workers start for a job."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                line = process.info["cmdline"] or []
                if any(EXECUTOR in part for part in line) and any("127.0.0.1" in p for p in line):
                    found.append(process)
        return found


@contextlib.contextmanager
def standalone(folder: Path, workers: int = 2) -> Iterator[Spark]:
    """One master and `workers` workers of one core each, all JVMs of their own, on different
    addresses of loopback: Spark starts no speculative copy on the host that has the task."""
    java()
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        pytest.skip("pyspark is not installed; make test-cluster brings it")
    home = Path(spec.origin).parent
    program = str(home / "bin" / "spark-class")
    environment = {"SPARK_HOME": str(home)}
    port, web = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        package = "org.apache.spark.deploy"
        master = [program, f"{package}.master.Master", "--host", "127.0.0.1"]
        master += ["--port", str(port), "--webui-port", str(web)]
        environment["SPARK_LOCAL_IP"] = "127.0.0.1"
        stack.enter_context(service(master, port, folder / "master.log", **environment))
        for number in range(workers):
            own, host = free_port(), f"127.0.0.{number + 1}"
            environment["SPARK_LOCAL_IP"] = host
            command = [program, f"{package}.worker.Worker", "--host", host, "--port", str(own)]
            command += ["--webui-port", "0", "-c", "1", "-m", "1g", "-d", str(folder / str(number))]
            command.append(f"spark://127.0.0.1:{port}")
            log = folder / f"worker-{number}.log"
            stack.enter_context(service(command, own, log, host, **environment))
            wait_for(lambda log=log: "registered" in log.read_text(), 60, "the worker registers")
        yield Spark(f"spark://127.0.0.1:{port}", f"127.0.0.1:{web}")


def many_command(listed: Path, output: Path, server: ImageServer, *more: str) -> list[str]:
    """A build of the long list. Two JVMs for each core make every answer late: no URL may time out
    in one build and not in another."""
    return builds.command(listed, output, server, *more, sets=["download.timeout_s=100"])


def spark_flags(master: str, conf: Sequence[str] = (), memory: str = "512m") -> list[str]:
    """The options of a build on Spark."""
    settings = [f"spark.executor.memory={memory}", *conf]
    return [
        *("--runner", "spark", "--spark-master", master),
        *("--set", f"spark.job_server_jar={tool('spark-job-server.jar')}"),
        *("--set", f"spark.conf={json.dumps(settings)}"),
    ]


def flink_flags() -> list[str]:
    return ["--runner", "flink", "--set", f"flink.job_server_jar={tool('flink-job-server.jar')}"]


def prism_flags() -> list[str]:
    return ["--runner", "prism", "--set", f"prism.location={tool('prism')}"]


@dataclass(frozen=True)
class Built:
    """A build's outcome: shards, faces, and one hash over all its files' hashes."""

    engine: str
    shards: int
    faces: int
    sha256: str
    seconds: float

    @classmethod
    def of(cls, engine: str, output: Path, seconds: float) -> Built:
        manifest = json.loads((output / "dataset.json").read_text())
        files = builds.dataset_bytes(output)
        together = hashlib.sha256("".join(files[name] for name in sorted(files)).encode())
        funnel = manifest["funnel"]
        assert funnel["rows"] == funnel["rows_kept"] + sum(funnel["rows_dropped"].values())
        return cls(engine, manifest["shards"], funnel["faces_kept"], together.hexdigest(), seconds)


BUILT: list[Built] = []
"""What this run has built, for the table at its end."""

SAID: list[str] = []
"""What the fault runs did, for the same place."""


def build(engine: str, arguments: list[str], output: Path, timeout: float = 280) -> Built:
    """Run a build to its end, note it for the table."""
    started = time.monotonic()
    result = builds.run(arguments, timeout=timeout)
    seconds = time.monotonic() - started
    assert result.returncode == 0, f"{result.stderr}\n{logs(output)}"
    BUILT.append(Built.of(engine, output, seconds))
    return BUILT[-1]


def logs(output: Path) -> str:
    """The ends of a build's logs, for a failure's message."""
    files = sorted((output / "logs").glob("*.log"))
    return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files)


def start(arguments: list[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start a build in a session of its own."""
    return subprocess.Popen(
        arguments,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
