"""The engines `spark`, `flink` and `prism`, by Beam's job servers.

What runs beside the graph on this machine: the job server (for Spark it is the driver), and, where
the engine's workers are on this machine, too, the pool that starts Python workers. Both end with
this process, however it ends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability import flink_runner, prism_runner, spark_runner
from apache_beam.runners.portability.job_server import SubprocessJobServer

from facecap.pipeline.beam_options import beam_options, given
from facecap.pipeline.errors import BuildFailed, UsageError
from facecap.schemas.options import Options, run

POOL_PORT = 50_000
"""Where a worker pool listens on each host of a cluster (pipeline/worker_pool.py)."""

MAX_TASKS = 4096
_START_S = 120.0
_KEEP_WORKERS_MS = 600_000
_GUARD = """
import os, signal, subprocess, sys, threading
for stop in (signal.SIGINT, signal.SIGTERM): signal.signal(stop, signal.SIG_IGN)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True,
                         preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL)
                                             for s in (signal.SIGINT, signal.SIGTERM)])
def ended():
    child.wait()
    try: os.killpg(child.pid, signal.SIGKILL)  # what it started must not outlive it
    except OSError: pass
    os._exit(1)
threading.Thread(target=ended, daemon=True).start()
os.read(0, 1)  # nothing ever comes: it returns when the parent closed its end, or died
os.killpg(child.pid, signal.SIGTERM)
try: child.wait(5)
except subprocess.TimeoutExpired: pass
try: os.killpg(child.pid, signal.SIGKILL)
except ProcessLookupError: pass
os._exit(0)
"""


class SparkOptions(Options):
    """How Spark is driven; where it is says --spark-master."""

    job_server_jar: str | None = run(
        None, "Beam's Spark job server of this Beam's version, a path or URL; none: Beam fetches it"
    )
    conf: tuple[str, ...] = run(
        (), "Spark's own settings, NAME=VALUE each, e.g. spark.executor.memory=4g"
    )


class FlinkOptions(Options):
    """How Flink is driven; where it is says --flink-master."""

    job_server_jar: str | None = run(
        None, "Beam's Flink job server of this Beam's version, a path or URL; none: Beam fetches it"
    )
    version: str = run("1.20", "Flink's version, which chooses the job server to be fetched")


class PrismOptions(Options):
    """How Prism, Beam's runner in Go, is found."""

    location: str | None = run(
        None, "the prism binary of this Beam's version, a path or URL; none: Beam fetches it"
    )


@dataclass(frozen=True)
class PortableEngine:
    """One of the three. `runner` is Beam's name for all of them: a job server does the rest.
    `workers` are Python processes: on a cluster per executor or task manager."""

    name: str
    flags: tuple[str, ...]
    extra: tuple[str, ...]
    job_server: type[SubprocessJobServer]
    workers_here: bool
    workers: int
    runner: str = "PortableRunner"
    replaces_workers: bool = True

    @contextlib.contextmanager
    def started(self, log: Path) -> Iterator[PipelineOptions]:
        """The job server, and the pool where workers are here. Raises BuildFailed when one does
        not start."""
        flags = list(self.flags)
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="facecap-job-"))
            if self.workers_here:
                port = _free_port()
                pool = [sys.executable, "-m", "facecap.pipeline.cli", "worker-pool"]
                pool += ["--port", str(port)]
                stack.enter_context(_service(pool, port, "the worker pool", log))
                flags += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]
            flags.append(f"--artifacts_dir={scratch}")
            server = self.job_server(beam_options(flags, self.extra))
            command, endpoint = server.subprocess_cmd_and_endpoint()
            name = f"the {self.name} job server"
            port = int(endpoint.rpartition(":")[2])
            stack.enter_context(_service([str(part) for part in command], port, name, log))
            yield beam_options([*flags, f"--job_endpoint=localhost:{port}"], self.extra)


def spark_engine(
    master: str, options: SparkOptions, workers: int | None, shards: int, extra: Sequence[str]
) -> PortableEngine:
    """Spark at `master`: local, local[N], local[*] or spark://HOST:PORT. `workers` are Python
    processes per executor, by default one, and for local one per core of local[...].

    A task of Spark is a partition: there are as many as `shards`, so that a lost executor costs
    little and the last one running is not alone for long. Raises UsageError.
    """
    local = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\s*\d+)?\])?", master)
    if not local and not re.fullmatch(r"spark://[^/\s]+:\d+(,[^/\s]+:\d+)*", master):
        raise UsageError(
            f"--spark-master {master!r}: write spark://HOST:PORT, local[N] or local[*]; how to run "
            "inside Kubernetes is in deploy/spark/README.md"
        )
    wrong = next((c for c in options.conf if not re.fullmatch(r"spark\.[\w.-]+=.*", c)), None)
    if wrong is not None:
        raise UsageError(f"spark.conf: {wrong!r} is not of the form spark.NAME=VALUE")
    here = bool(local) or _is_loopback(urlsplit(master).hostname)
    conf = {"spark.app.name": "facecap", "spark.default.parallelism": str(min(shards, MAX_TASKS))}
    if here:
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    conf |= dict(pair.split("=", 1) for pair in options.conf)
    cores = os.cpu_count() or 1
    if local and workers is None:
        workers = int(local[1]) if (local[1] or "*").isdigit() else cores if local[1] else 1
    workers = workers or 1
    flags = [f"--spark_master_url={master}", f"--sdk_worker_parallelism={workers}"]
    flags += [f"--job_server_jvm_properties=-D{name}={value}" for name, value in conf.items()]
    if options.job_server_jar:
        flags.append(f"--spark_job_server_jar={_jar('spark', options.job_server_jar)}")
    return _engine("spark", flags, extra, spark_runner.SparkJarJobServer, here, workers)


def flink_engine(
    master: str, options: FlinkOptions, workers: int | None, extra: Sequence[str]
) -> PortableEngine:
    """Flink at `master`: [local], or HOST:PORT of its REST service. `workers` are Python processes
    per task manager. Raises UsageError."""
    if master != "[local]" and not re.fullmatch(r"(https?://)?[^/\s\[\]]+:\d+", master):
        raise UsageError(f"--flink-master {master!r}: write HOST:PORT, or [local]")
    host = urlsplit(master if "//" in master else f"//{master}").hostname if ":" in master else None
    here = master == "[local]" or _is_loopback(host)
    parallelism = workers or (os.cpu_count() or 1)
    flags = [f"--flink_master={master}", f"--flink_version={options.version}"]
    flags += [f"--sdk_worker_parallelism={parallelism}", f"--parallelism={parallelism}"]
    if options.job_server_jar:
        flags.append(f"--flink_job_server_jar={_jar('flink', options.job_server_jar)}")
    return _engine("flink", flags, extra, flink_runner.FlinkJarJobServer, here, parallelism)


def prism_engine(options: PrismOptions, extra: Sequence[str]) -> PortableEngine:
    """Prism on this machine. Raises UsageError."""
    flags = []
    if options.location:
        if "://" not in options.location and not os.access(options.location, os.X_OK):
            raise UsageError(f"prism.location: {options.location} is no program that can be run")
        flags.append(f"--prism_location={options.location}")
    return _engine("prism", flags, extra, prism_runner.PrismJobServer, True, 1)


def _engine(
    name: str,
    flags: Sequence[str],
    extra: Sequence[str],
    job_server: type[SubprocessJobServer],
    here: bool,
    workers: int,
) -> PortableEngine:
    # Without it every stage starts Python anew, and loads the models again.
    flags = [*flags, f"--environment_cache_millis={_KEEP_WORKERS_MS}"]
    elsewhere = given(extra).get("environment_type")
    if elsewhere is not None:
        here = False
    elif not here:
        flags += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{POOL_PORT}"]
    beam_options(flags, extra)
    if name != "prism" and shutil.which("java") is None:
        raise UsageError(f"--runner {name}: needs Java 11 or 17; install it and put it on PATH")
    return PortableEngine(name, tuple(flags), tuple(extra), job_server, here, workers)


def _jar(section: str, place: str) -> str:
    if "://" not in place and not Path(place).is_file():
        raise UsageError(f"{section}.job_server_jar: {place} is not a file")
    return place


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return False


@contextlib.contextmanager
def _service(command: list[str], port: int, name: str, log: Path) -> Iterator[None]:
    """Run `command` until the block, or this process, ends; entered when it listens on `port` of
    loopback. Raises BuildFailed."""
    path = log.with_name(f"{log.stem}-{name.removeprefix('the ').replace(' ', '-')}.log")
    with path.open("ab") as output:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is not meant for it
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if guard.poll() is not None or time.monotonic() > deadline:
                raise BuildFailed(f"{name} did not start: {_reason(path)} (all of it: {path})")
            time.sleep(0.1)
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _reason(log: Path) -> str:
    """The line that says most: of a Java trace the one that names the exception."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "..."))]
    named = [line for line in lines if re.search(r"(Exception|Error)\b", line)]
    return (named or lines or ["it said nothing"])[-1][:300]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
