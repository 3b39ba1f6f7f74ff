"""Which engine a command line gets, and what it may not say."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from facecap.pipeline.engines import Target, make_engine
from facecap.pipeline.errors import UsageError
from facecap.pipeline.execution import Engine
from facecap.pipeline.settings import load_settings
from tests.pipeline.test_dataflow import options_of


@pytest.fixture(autouse=True)
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def made(*overrides: str, extra: Sequence[str] = (), **target: Any) -> Engine:
    settings = load_settings(overrides=overrides)
    settings = settings.model_copy(update={"dataflow": options_of()})
    return make_engine(Target(**target), settings, "gs://my-bucket/faces", 9, extra)


def options(engine: Engine, tmp_path: Path) -> dict[str, Any]:
    with engine.started(tmp_path / "run.log") as options:
        return dict(options.get_all_options())


@pytest.mark.parametrize(
    ("target", "runner", "here", "replaces"),
    [
        ({}, "FnApiRunner", True, False),
        ({"runner": "spark", "spark_master": "local[2]"}, "PortableRunner", True, True),
        ({"runner": "spark", "spark_master": "spark://h:7077"}, "PortableRunner", False, True),
        ({"runner": "flink"}, "PortableRunner", True, False),
        ({"runner": "flink", "flink_master": "h:8081"}, "PortableRunner", False, False),
        ({"runner": "prism"}, "PortableRunner", True, False),
    ],
)
def test_an_engine_by_its_name(
    target: dict[str, str], runner: str, here: bool, replaces: bool
) -> None:
    engine = made(**target)
    assert engine.runner == runner
    assert (engine.workers_here, engine.replaces_workers) == (here, replaces)


def test_dataflow_where_googles_libraries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("apitools") is None:
        with pytest.raises(UsageError, match=r"pip install 'facecap\[dataflow\]'"):
            made(runner="dataflow")
    else:
        engine = made(runner="dataflow")
        assert (engine.runner, engine.workers_here) == ("DataflowRunner", False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"spark_master": "local[2]"}, "--spark-master: is for --runner spark, not local"),
        (
            {"runner": "flink", "spark_master": "local[2]"},
            "--spark-master: is for --runner spark, not flink",
        ),
        (
            {"runner": "spark", "spark_master": "local", "flink_master": "[local]"},
            "--flink-master: is for --runner flink, not spark",
        ),
        ({"runner": "prism", "flink_master": "h:1"}, "--flink-master: is for --runner flink"),
        ({"runner": "spark"}, "--spark-master: not given; write spark://HOST:PORT or local"),
        ({"runner": "abacus"}, "--runner abacus: unknown"),
    ],
)
def test_what_does_not_fit_together_is_named(target: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        made(**target)
    assert str(refused.value).startswith(message)


def test_workers_are_for_this_machine_and_for_executors() -> None:
    with pytest.raises(UsageError, match=r"^--workers: .*; set dataflow\.workers$"):
        made("build.workers=4", runner="dataflow")
    engine = made("build.workers=4", runner="spark", spark_master="spark://h:7077")
    assert "--sdk_worker_parallelism=4" in engine.flags  # type: ignore[attr-defined]


def test_one_worker_process_per_core(tmp_path: Path) -> None:
    found = options(made(), tmp_path)
    assert found["direct_num_workers"] == len(os.sched_getaffinity(0))
    found = options(made("build.workers=3"), tmp_path)
    assert (found["direct_num_workers"], found["direct_running_mode"]) == (3, "multi_processing")


@pytest.mark.parametrize("stage", ["detect", "attributes"])
def test_threads_of_one_process_share_a_gpu(stage: str, tmp_path: Path) -> None:
    found = options(made("build.workers=3", f"{stage}.provider=cuda"), tmp_path)
    assert (found["direct_num_workers"], found["direct_running_mode"]) == (3, "multi_threading")


def test_beams_own_options_reach_every_engine() -> None:
    for target in ({}, {"runner": "prism"}, {"runner": "flink"}):
        with pytest.raises(UsageError, match="--nosuch=1: Beam knows no such option"):
            made(extra=["--nosuch=1"], **target)
