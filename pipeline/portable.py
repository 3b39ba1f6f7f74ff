"""The engines `spark`, `flink` and `prism`, by Beam's job servers.

What runs beside the graph on this machine: the job server (for Spark it is the driver), and, where
the engine's workers are on this machine, too, the pool that starts Python workers. Both end with
this process, however it ends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability import flink_runner, prism_runner, spark_runner
from apache_beam.runners.portability.job_server import SubprocessJobServer
from pydantic import field_validator

from facecap.pipeline.beam_options import beam_options, given
from facecap.pipeline.errors import BuildFailed, UsageError
from facecap.pipeline.services import free_port, service
from facecap.schemas.options import Options, run

POOL_PORT = 50_000
"""Where a worker pool listens on each host of a cluster (pipeline/worker_pool.py)."""

MAX_TASKS = 4096
_OURS = {
    "runner": "choose by --runner before it",
    "job_endpoint": "facecap starts the job server; set its jar by spark.* or flink.* instead",
    "spark_master_url": "use --spark-master instead",
    "flink_master": "use --flink-master instead",
    "spark_job_server_jar": "set spark.job_server_jar instead",
    "flink_job_server_jar": "set flink.job_server_jar instead",
    "prism_location": "set prism.location instead",
    "sdk_worker_parallelism": "use --workers instead",
}
"""Options of Beam's that would defeat ours: what to use instead."""

_KEEP_WORKERS_MS = 600_000


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

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, version: object) -> object:
        return str(version) if isinstance(version, float) else version  # YAML's 1.19 is a number


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
                port = free_port()
                pool = [sys.executable, "-m", "facecap.pipeline.cli", "worker-pool"]
                pool += ["--port", str(port)]
                stack.enter_context(service(pool, port, "the worker pool", log))
                flags += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]
            flags.append(f"--artifacts_dir={scratch}")
            server = self.job_server(beam_options(flags, self.extra))
            name = f"the {self.name} job server"
            try:
                command, endpoint = server.subprocess_cmd_and_endpoint()
            except Exception as error:
                setting = "location" if self.name == "prism" else "job_server_jar"
                reason = " ".join(str(error).split())[:200]
                raise BuildFailed(
                    f"{name} could not be fetched ({reason}); get it by hand, and name it by "
                    f"{self.name}.{setting}"
                ) from error
            port = int(endpoint.rpartition(":")[2])
            stack.enter_context(service([str(part) for part in command], port, name, log))
            yield beam_options([*flags, f"--job_endpoint=localhost:{port}"], self.extra)


def spark_engine(
    master: str, options: SparkOptions, workers: int | None, shards: int, extra: Sequence[str]
) -> PortableEngine:
    """Spark at `master`: local, local[N], local[*] or spark://HOST:PORT. `workers` are Python
    processes per executor, by default one, and for local one per core of local[...].

    A task of Spark is a partition: there are as many as `shards`, so that a lost executor costs
    little and the last one running is not alone for long. Raises UsageError.
    """
    local = re.fullmatch(r"local(?:\[([1-9]\d{0,3}|\*)(?:,\s*\d+)?\])?", master)
    if not local and not re.fullmatch(r"spark://[^/\s]+:\d+(,[^/\s]+:\d+)*", master):
        raise UsageError(
            f"--spark-master {master!r}: write spark://HOST:PORT, local[N] or local[*]; how to run "
            "inside Kubernetes is in deploy/spark/README.md"
        )
    wrong = next((c for c in options.conf if not re.fullmatch(r"spark\.[\w.-]+=.*", c)), None)
    if wrong is not None:
        raise UsageError(f"spark.conf: {wrong!r} is not of the form spark.NAME=VALUE")
    here = bool(local) or _is_loopback(_host(master, "--spark-master"))
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
    host = _host(master if "//" in master else f"//{master}", "--flink-master")
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
        is_program = Path(options.location).is_file() and os.access(options.location, os.X_OK)
        if "://" not in options.location and not is_program:
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
    # Beam would list our packages in a file that workers elsewhere look for in our folder.
    flags.append("--experiments=disable_logging_submission_environment")
    user = given(extra)
    for option, ours in _OURS.items():
        if option in user:
            raise UsageError(f"--{option} after --: {ours}")
    if user.keys() & {"environment_type", "environment_config", "environment_options"}:
        here = False
        if "environment_type" not in user:
            flags.append("--environment_type=EXTERNAL")
    elif not here:
        flags += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{POOL_PORT}"]
    beam_options(flags, extra)
    _check_environment(user)
    if name != "prism" and shutil.which("java") is None:
        raise UsageError(f"--runner {name}: needs Java 11 or 17; install it and put it on PATH")
    # Prism, and Flink without a restart strategy, end the job with the first worker that is lost.
    replaces = name == "spark"
    return PortableEngine(
        name, tuple(flags), tuple(extra), job_server, here, workers, replaces_workers=replaces
    )


def _check_environment(user: Mapping[str, Any]) -> None:
    """Raises UsageError where the options that a person gave make no environment."""
    kind = str(user.get("environment_type") or "EXTERNAL").upper()
    kinds = ("EXTERNAL", "PROCESS", "LOOPBACK", "DOCKER")
    if kind not in kinds:
        raise UsageError(f"--environment_type after --: choose one of {', '.join(kinds)}")
    config = user.get("environment_config")
    if kind == "PROCESS" and not user.get("environment_options"):
        try:
            command = json.loads(config or "")["command"]
        except (ValueError, TypeError, KeyError):
            command = None
        if not command:
            raise UsageError(
                "--environment_config after --: PROCESS needs JSON with the program, e.g. "
                '\'{"command": "/opt/apache/beam/boot"}\''
            )


def _host(url: str, flag: str) -> str | None:
    """Raises UsageError where there is none, or a port that cannot be."""
    if url.startswith("local") or "[local]" in url:
        return None
    for part in url.partition("//")[2].split(","):
        try:
            found = urlsplit(f"//{part}")
            good = bool(found.hostname) and (found.port or 0) > 0
        except ValueError:
            good = False
        if not good:
            raise UsageError(f"{flag}: {part!r} is not HOST:PORT")
    return urlsplit(url.split(",")[0]).hostname


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
