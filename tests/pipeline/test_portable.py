"""Spark, Flink and Prism: their options, and the processes that run beside the graph. The engines
themselves are in tests/cluster; here a small program stands for Java."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facecap.pipeline.beam_options import beam_options
from facecap.pipeline.errors import BuildFailed, UsageError
from facecap.pipeline.portable import (
    FlinkOptions,
    PortableEngine,
    PrismOptions,
    SparkOptions,
    flink_engine,
    prism_engine,
    spark_engine,
)
from tests.processes import listens

CLUSTER = "spark://host:7077"


@pytest.fixture(autouse=True)
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `java` first on PATH that listens on the --job-port it is given, whatever the rest says."""
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    code = (
        "import socket, sys, time; print(sys.argv[1:], flush=True); "
        "port = int(sys.argv[sys.argv.index('--job-port') + 1]); "
        "server = socket.create_server(('127.0.0.1', port)); time.sleep(600)"
    )
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -c "{code}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def spark(
    master: str = CLUSTER,
    *extra: str,
    workers: int | None = None,
    shards: int = 8,
    **options: Any,
) -> PortableEngine:
    return spark_engine(master, SparkOptions(**options), workers, shards, extra)


def flink(master: str, *extra: str, workers: int | None = None, **options: Any) -> PortableEngine:
    return flink_engine(master, FlinkOptions(**options), workers, extra)


def seen(engine: PortableEngine) -> dict[str, Any]:
    """The options as Beam reads them."""
    return dict(beam_options(engine.flags, engine.extra).get_all_options())


def conf(engine: PortableEngine) -> dict[str, str]:
    """Spark's own settings, as the driver's JVM gets them."""
    pairs = (text.removeprefix("-D") for text in seen(engine)["job_server_jvm_properties"])
    return dict(pair.split("=", 1) for pair in pairs)


def refusal(make: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as refused:
        make(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("make", "master", "here"),
    [
        (spark, "local", True),
        (spark, "local[2]", True),
        (spark, "local[*]", True),
        (spark, "local[2,3]", True),
        (spark, "spark://localhost:7077", True),
        (spark, "spark://127.0.0.1:7077", True),
        (spark, CLUSTER, False),
        (spark, "spark://a:7077,b:7077", False),
        (flink, "[local]", True),
        (flink, "localhost:8081", True),
        (flink, "http://127.0.0.1:8081", True),
        (flink, "flink:8081", False),
        (flink, "https://flink.example.org:443", False),
    ],
)
def test_workers_are_here_where_the_master_is(
    make: Callable[[str], PortableEngine], master: str, here: bool
) -> None:
    engine = make(master)
    assert engine.workers_here == here
    assert engine.replaces_workers == (engine.name == "spark")
    asked = (seen(engine)["environment_type"], seen(engine)["environment_config"])
    # A pool here has a port that is found when it starts.
    assert asked == ((None, None) if here else ("EXTERNAL", "localhost:50000"))
    assert master in (seen(engine)["spark_master_url"], seen(engine)["flink_master"])


@pytest.mark.parametrize(
    "master", ["", "yarn", "local[", "local[x]", "spark://host", "k8s://https://h:1", "host:7077"]
)
def test_a_wrong_spark_master_is_named(master: str) -> None:
    said = refusal(spark, master)
    assert said.startswith(f"--spark-master {master!r}: write spark://HOST:PORT, local[N]")


@pytest.mark.parametrize("master", ["", "local", "[auto]", "flink", "ftp://flink:8081", "a b:1"])
def test_a_wrong_flink_master_is_named(master: str) -> None:
    said = refusal(flink, master)
    assert said == f"--flink-master {master!r}: write HOST:PORT, or [local]"


@pytest.mark.parametrize("wrong", ["executor.memory=4g", "spark.executor.memory", "spark. a=1"])
def test_a_setting_that_is_not_sparks_is_named(wrong: str) -> None:
    said = refusal(spark, conf=("spark.executor.cores=1", wrong))
    assert said == f"spark.conf: {wrong!r} is not of the form spark.NAME=VALUE"


def test_a_task_per_shard_up_to_a_cap() -> None:
    assert conf(spark(shards=7))["spark.default.parallelism"] == "7"
    assert conf(spark(shards=50_000))["spark.default.parallelism"] == "4096"


def test_the_users_settings_win_over_ours() -> None:
    ours = conf(spark("local[2]"))
    assert (ours["spark.app.name"], ours["spark.driver.host"]) == ("facecap", "127.0.0.1")
    assert "spark.driver.host" not in conf(spark(CLUSTER)), "executors elsewhere call it back"
    given = ("spark.default.parallelism=3", "spark.app.name=a=b", "spark.driver.host=10.0.0.1")
    merged = conf(spark("local[2]", conf=given))
    assert merged["spark.default.parallelism"] == "3" and merged["spark.app.name"] == "a=b"
    assert merged["spark.driver.host"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("engine", "processes"),
    [
        (lambda: spark(CLUSTER), 1),
        (lambda: spark(CLUSTER, workers=4), 4),
        (lambda: spark("local"), 1),
        (lambda: spark("local[3]"), 3),
        (lambda: spark("local[*]"), os.cpu_count()),
        (lambda: spark("local[3]", workers=2), 2),
        (lambda: flink("[local]"), os.cpu_count()),
        (lambda: flink("flink:8081", workers=5), 5),
    ],
)
def test_python_processes_per_executor(
    engine: Callable[[], PortableEngine], processes: int
) -> None:
    assert int(seen(engine())["sdk_worker_parallelism"]) == processes == engine().workers


def test_options_after_the_dashes_win() -> None:
    boot = '{"command": "boot"}'
    for engine in (
        spark("local[2]", "--environment_type=LOOPBACK"),
        flink("flink:8081", "--environment_type=PROCESS", f"--environment_config={boot}"),
        prism_engine(PrismOptions(), ["--environment_type=DOCKER"]),
    ):
        assert seen(engine)["environment_type"] in ("LOOPBACK", "PROCESS", "DOCKER")
        assert not engine.workers_here, "no pool is started beside the user's own"
        assert seen(engine)["environment_config"] in (None, boot)
    assert seen(flink("flink:8081", "--parallelism=40", workers=4))["parallelism"] == 40
    assert "--nosuch=1: Beam knows no such option" in refusal(spark, CLUSTER, "--nosuch=1")


def test_without_java_its_engines_are_refused_and_prism_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(spark).startswith("--runner spark: needs Java 11 or 17")
    assert refusal(flink, "[local]").startswith("--runner flink: needs Java 11 or 17")
    assert prism_engine(PrismOptions(), []).workers_here


def test_programs_that_are_not_there_are_named(tmp_path: Path) -> None:
    jar, text = str(tmp_path / "server.jar"), tmp_path / "prism"
    said = f"spark.job_server_jar: {jar} is not a file"
    assert refusal(spark, job_server_jar=jar) == said
    assert refusal(flink, "[local]", job_server_jar=str(tmp_path)).startswith(
        "flink.job_server_jar"
    )
    text.touch()
    said = refusal(prism_engine, PrismOptions(location=str(text)), [])
    assert said == f"prism.location: {text} is no program that can be run"
    url = "https://repo.example.org/server.jar"
    assert seen(spark(job_server_jar=url))["spark_job_server_jar"] == url


def test_the_job_server_and_the_pool_run_while_the_block_does(tmp_path: Path) -> None:
    jar = tmp_path / "server.jar"
    jar.touch()
    engine = spark("local[2]", job_server_jar=str(jar), conf=("spark.ui.enabled=false",))
    with engine.started(tmp_path / "run.log") as options:
        made = options.get_all_options()
        pool, server = made["environment_config"], made["job_endpoint"]
        assert made["environment_type"] == "EXTERNAL"
        assert listens(pool) and listens(server)
    assert not listens(pool) and not listens(server)
    said = (tmp_path / "run-spark-job-server.log").read_text()
    assert "'-Dspark.ui.enabled=false'" in said and f"'-jar', '{jar}'" in said
    assert "'--spark-master-url', 'local[2]'" in said
    assert "worker pool on 127.0.0.1" in (tmp_path / "run-worker-pool.log").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--job_endpoint=localhost:1"], "--job_endpoint after --: facecap starts"),
        (
            ["--spark_master_url=spark://far:7"],
            "--spark_master_url after --: use --spark-master",
        ),
        (["--sdk_worker_parallelism=3"], "--sdk_worker_parallelism after --: use --workers"),
        (["--environment_type=FOO"], "--environment_type after --: choose one of EXTERNAL"),
        (["--environment_type=PROCESS"], "--environment_config after --: PROCESS needs JSON"),
        (["--environment_type=PROCESS", "--environment_config=x"], "PROCESS needs JSON"),
    ],
)
def test_options_that_would_defeat_ours_are_refused(options: list[str], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        spark_engine("local[2]", SparkOptions(), None, 5, options)
    assert words in str(refused.value)


def test_an_environments_address_alone_means_a_pool_of_the_users() -> None:
    engine = spark_engine("local[2]", SparkOptions(), None, 5, ["--environment_config=h:1"])
    assert not engine.workers_here and "--environment_type=EXTERNAL" in engine.flags


@pytest.mark.parametrize(
    "master", ["spark://[x:7077", "spark://h:99999", "spark://h:0", "local[0]", "local[99999]"]
)
def test_masters_that_cannot_be_are_refused_in_one_line(master: str) -> None:
    with pytest.raises(UsageError, match=r"^--spark-master"):
        spark_engine(master, SparkOptions(), None, 5, [])


def test_a_version_that_yaml_takes_for_a_number_is_one() -> None:
    assert FlinkOptions.model_validate({"version": 1.19}).version == "1.19"


def test_a_job_server_that_cannot_be_fetched_is_one_line(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/no.jar"
    engine = spark_engine("local[2]", SparkOptions(job_server_jar=url), None, 5, [])
    here = dataclasses.replace(engine, workers_here=False)
    with pytest.raises(BuildFailed, match=r"could not be fetched .* by spark\.job_server_jar"):
        with here.started(tmp_path / "run.log"):
            pass
