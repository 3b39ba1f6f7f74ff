"""Every engine ends in the local runner's bytes, also when executors die or work is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pyarrow.parquet as pq
import pytest

from tests import builds
from tests.cluster import engines
from tests.cluster.engines import SAID, Built, Spark, build
from tests.cluster.services import Bucket, free_port, service, wait_for
from tests.servers import ImageServer, Route

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FLAGS: dict[str, Callable[[], list[str]]] = {
    "prism": engines.prism_flags,
    "flink, embedded": engines.flink_flags,
    "spark, local[2]": lambda: engines.spark_flags("local[2]"),
}


@pytest.mark.parametrize("engine", FLAGS)
def test_an_engine_on_this_machine_writes_the_local_runners_bytes(
    engine: str, reference: Built, many: Path, many_server: ImageServer, tmp_path: Path
) -> None:
    arguments = engines.many_command(many, tmp_path / "out", many_server, *FLAGS[engine]())
    assert build(engine, arguments, tmp_path / "out").sha256 == reference.sha256


def test_a_standalone_cluster_writes_the_local_runners_bytes(
    spark: Spark, reference: Built, many: Path, many_server: ImageServer, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = engines.many_command(many, output, many_server, *engines.spark_flags(spark.master))
    built = build("spark, 2 executors", arguments, output)
    assert built.sha256 == reference.sha256
    verified = builds.run([sys.executable, "-m", "facecap.pipeline.cli", "verify", str(output)])
    assert verified.returncode == 0 and "sound" in verified.stdout, verified.stdout


@pytest.fixture(scope="module")
def slow_list(
    photographs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ImageServer, dict[str, str]]:
    """A list that takes a while, its server, and the bytes of an undisturbed build."""
    pictures = [
        body for name, body in sorted(photographs.items()) if name.endswith((".jpg", ".png"))
    ]
    routes = {
        f"/{n}.jpg": Route(pictures[n % len(pictures)], delay=0.4 if n % 3 else 0.1)
        for n in range(60)
    }
    folder = tmp_path_factory.mktemp("slow")
    server = ImageServer(routes)
    server.__enter__()
    listed = builds.write_list(folder / "urls.parquet", server, 60)
    result = builds.run(slow_command(listed, folder / "out", server))
    assert result.returncode == 0, result.stderr
    return listed, server, builds.dataset_bytes(folder / "out")


def slow_command(listed: Path, output: Path, server: ImageServer, *more: str) -> list[str]:
    sets = ["download.per_host=1", "download.lookahead_rows=0", "download.timeout_s=100"]
    return builds.command(listed, output, server, *more, sets=sets)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 3))])
def test_a_killed_executor_changes_no_byte(
    seed: int,
    spark: Spark,
    slow_list: tuple[Path, ImageServer, dict[str, str]],
    tmp_path: Path,
) -> None:
    listed, server, expected = slow_list
    output = tmp_path / "out"
    flags = engines.spark_flags(spark.master)
    process = engines.start(slow_command(listed, output, server, *flags))
    wanted = 1 + random.Random(seed).randrange(4)

    def committed() -> int:
        return len(list(output.glob("commits/*.json")))

    wait_for(lambda: committed() >= wanted, 200, "the first shards are committed")
    victims = spark.executors()
    victim = random.Random(seed).choice(sorted(victims, key=lambda p: p.pid))
    victim.send_signal(signal.SIGKILL)
    before = committed()
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors + engines.logs(output)
    assert before < len(expected) // 4, "it was in the middle"
    assert builds.dataset_bytes(output) == expected
    assert not (output / "_attempts").exists()
    SAID.append(
        f"SIGKILL to executor {victim.pid} of {len(victims)} with {before} shards committed: "
        "equal bytes"
    )


def test_speculative_copies_change_no_byte(
    spark: Spark, photographs: dict[str, bytes], tmp_path: Path
) -> None:
    """One URL takes so long that its task gets a second attempt on the idle executor."""
    output, events = tmp_path / "out", tmp_path / "events"
    events.mkdir()
    body = photographs["/astronaut.png"]
    routes = {f"/{n:02}.png": Route(body, delay=25 if n == 21 else 0) for n in range(30)}
    with ImageServer(routes) as server:
        listed = builds.write_list(tmp_path / "urls.parquet", server, 30)
        plain = builds.run(slow_command(listed, tmp_path / "plain", server))
        assert plain.returncode == 0, plain.stderr
        tasks = speculate(spark, listed, server, output, events)
    copies = sum(task["Speculative"] for task in tasks)
    assert copies, f"none of {len(tasks)} tasks was started twice"
    assert builds.dataset_bytes(output) == builds.dataset_bytes(tmp_path / "plain")
    assert not (output / "_attempts").exists()
    SAID.append(f"speculation started {copies} of {len(tasks)} tasks as copies: equal bytes")


def speculate(
    spark: Spark, listed: Path, server: ImageServer, output: Path, events: Path
) -> list[dict[str, Any]]:
    """Build with speculation; what Spark's event log tells of the tasks that were started."""
    conf = ["spark.speculation=true", "spark.speculation.interval=50ms"]
    conf += ["spark.speculation.multiplier=1.01", "spark.speculation.quantile=0.05"]
    conf += ["spark.speculation.minTaskRuntime=0ms", "spark.default.parallelism=5"]
    conf += ["spark.eventLog.enabled=true", f"spark.eventLog.dir=file://{events}"]
    flags = engines.spark_flags(spark.master, conf)
    result = builds.run(slow_command(listed, output, server, *flags), timeout=280)
    assert result.returncode == 0, result.stderr + engines.logs(output)
    return [
        json.loads(line)["Task Info"]
        for file in events.rglob("*")
        if file.is_file()
        for line in file.read_text().splitlines()
        if '"SparkListenerTaskStart"' in line
    ]


@pytest.mark.parametrize("engine", ["spark", "prism"])
def test_a_killed_launcher_leaves_nothing_running_and_the_command_continues(
    engine: str, slow_list: tuple[Path, ImageServer, dict[str, str]], tmp_path: Path
) -> None:
    listed, server, expected = slow_list
    output = tmp_path / "out"
    flags = engines.prism_flags() if engine == "prism" else engines.spark_flags("local[2]")
    arguments = slow_command(listed, output, server, *flags)
    process = engines.start(arguments)
    wait_for(lambda: any(output.glob("commits/*.json")), 200, "a shard is committed")
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("worker-pool" in " ".join(p.cmdline()) for p in family)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, [p.cmdline() for p in alive]
    result = builds.run(slow_command(listed, output, server))  # the engine is no content
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(output) == expected
    SAID.append(
        f"SIGKILL to the launcher on {engine}: {len(gone)} processes ended, continued by local: "
        "equal bytes"
    )


def test_ctrl_c_ends_the_job_on_a_cluster(
    spark: Spark, slow_list: tuple[Path, ImageServer, dict[str, str]], tmp_path: Path
) -> None:
    listed, server, expected = slow_list
    output = tmp_path / "out"
    arguments = slow_command(listed, output, server, *engines.spark_flags(spark.master))
    process = engines.start(arguments)
    wait_for(lambda: any(output.glob("commits/*.json")), 200, "a shard is committed")
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "same command to continue" in errors, errors
    wait_for(lambda: not spark.executors(), 60, "the executors end")
    result = builds.run(slow_command(listed, output, server))
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(output) == expected


def test_workers_elsewhere_write_to_a_bucket(
    bucket: Bucket,
    spark: Spark,
    slow_list: tuple[Path, ImageServer, dict[str, str]],
    tmp_path: Path,
) -> None:
    """A pool that the launcher did not start, and nothing shared but the bucket; the list lies in
    it, too. Its address is in the fingerprint, so the footers differ from the local build's."""
    listed, server, _ = slow_list
    fs, root = opened(bucket)
    place = f"elsewhere-{tmp_path.name}"
    fs.put_file(str(listed), f"{root}/{place}/urls.parquet")
    port = free_port()
    pool = [sys.executable, "-m", "facecap.pipeline.cli", "worker-pool", "--port", str(port)]
    arguments = slow_command(listed, tmp_path, server, *engines.spark_flags(spark.master))
    places = {
        str(listed): f"{bucket.url}/{place}/urls.parquet",
        str(tmp_path): f"{bucket.url}/{place}/out",
    }
    arguments = [places.get(part, part) for part in arguments]
    arguments += ["--", "--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]
    with service(pool, port, tmp_path / "pool.log"):
        started = time.monotonic()
        result = builds.run(arguments, timeout=280)
        seconds = time.monotonic() - started
    assert result.returncode == 0, result.stderr
    output = tmp_path / "copy"
    fs.get(f"{root}/{place}/out/", str(output), recursive=True)
    here = listed.parent / "out"
    for folder in ("shards", "rejects"):
        for path in sorted((here / folder).iterdir()):
            assert path.read_bytes() == (output / folder / path.name).read_bytes(), path
    for folder in ("ledger", "metadata"):
        for path in sorted((here / folder).iterdir()):
            found = pq.read_table(output / folder / path.name)
            assert found.equals(pq.read_table(path)), path
    assert not fs.exists(f"{root}/{place}/out/_attempts")
    engines.BUILT.append(Built.of(f"spark, list and OUT on {bucket.url[:2]}://", output, seconds))


def test_the_local_runner_writes_to_a_bucket_and_continues_there(
    bucket: Bucket, photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    result = builds.run(builds.command(photo_list, plain, photo_server))
    assert result.returncode == 0, result.stderr
    fs, root = opened(bucket)
    place = f"local-{tmp_path.name}"
    where = f"{bucket.url}/{place}/out"
    arguments = builds.command(photo_list, tmp_path, photo_server)
    arguments = [where if part == str(tmp_path) else part for part in arguments]
    killed = engines.start(arguments)
    wait_for(lambda: fs.exists(f"{root}/{place}/out/commits"), 100, "a shard is committed")
    builds.kill(killed, group=True)
    started = time.monotonic()
    result = builds.run(arguments)
    assert result.returncode == 0, result.stderr
    output = tmp_path / "copy"
    fs.get(f"{root}/{place}/out/", str(output), recursive=True)
    assert builds.dataset_bytes(output) == builds.dataset_bytes(plain)
    assert not fs.exists(f"{root}/{place}/out/_attempts")
    seconds = time.monotonic() - started
    engines.BUILT.append(Built.of(f"local, killed, OUT on {bucket.url[:2]}://", output, seconds))
    verify = [sys.executable, "-m", "facecap.pipeline.cli", "verify", where]
    verified = builds.run(verify)
    assert verified.returncode == 0 and "sound" in verified.stdout, verified
    other = builds.run([*arguments, "--set", "crop.min_side=90"])
    assert other.returncode == 2 and "crop.min_side" in other.stderr, "the bucket's build is known"


def opened(bucket: Bucket) -> tuple[Any, str]:
    """The bucket's file system, and its name there."""
    url = bucket.url
    fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return fs, root
