"""A look before the start: it says what a build would be, refuses what one would, and writes
nothing."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from facecap.pipeline import cli
from facecap.pipeline.build import BuildRequest, prepare
from facecap.pipeline.output import claim
from facecap.pipeline.screens import read_lists
from facecap.pipeline.settings import load_settings, resolve_models
from facecap.transforms.store import Store

ROWS = 130
SPARK = ("--runner", "spark", "--spark-master", "spark://host:7077")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user stands: two lists, and a `java` on PATH that is never started."""
    urls = [f"http://h.example/{n}.jpg" for n in range(ROWS)]
    folder = tmp_path / "here"
    folder.mkdir()
    pq.write_table(pa.table({"URL": urls, "TEXT": [""] * ROWS}), folder / "urls.parquet")
    (folder / "urls.csv").write_text("\n".join(["url", *urls]) + "\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether s3fs is installed is another test's matter; nobody is asked in a dry run."""
    monkeypatch.setitem(_registry, "s3", MemoryFileSystem)


@pytest.fixture(autouse=True)
def nothing_is_written(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Neither where the user stands nor among the temporary files anything is new or other."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    assert list(temporary.iterdir()) == []
    assert {p.name for p in here.iterdir()} - {"mine"} == {"urls.parquet", "urls.csv"}


def looked(capfd: pytest.CaptureFixture[str], *arguments: str, command: str = "build") -> str:
    """What a sound look says."""
    dry = "--dry-run" if command == "build" else "--plan"
    code = cli.run([command, dry, *arguments])
    said = capfd.readouterr()
    assert code == 0, said.err
    return said.out + said.err


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["build", "--dry-run", *arguments]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("facecap: ")
    return said.err.removeprefix("facecap: ").rstrip()


@pytest.mark.parametrize("name", ["urls.parquet", "urls.csv"])
def test_the_facts_of_a_list(capfd: pytest.CaptureFixture[str], name: str) -> None:
    said = looked(capfd, "--input", name, "--output", "out")
    # 64 shards at least, of three rows, take 44.
    assert said.startswith(f"{ROWS} rows in 44 shards for local, this machine\n")
    assert "1 environment" in said and "Download > ScreenBodies > Detect > Crop" in said
    assert said.endswith("Sound; nothing was started or written.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "nosuch.parquet"), "nosuch.parquet: no such file"),
        (("--input", "urls.csv", "--set", "input.url_column=link"), "link"),
        (("--input", "urls.csv", "--set", "detect.model_path=no.onnx"), "no.onnx"),
        (("--input", "urls.csv", "--runner", "spark"), "--spark-master: not given"),
        (("--input", "urls.csv", "--", "--nosuch=1"), "--nosuch=1: Beam knows no such option"),
    ],
)
def test_what_a_build_refuses_is_refused(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(capfd, "--output", "out", *arguments)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("hdfs://name/faces", "--output hdfs://name/faces: an output is a folder, or on s3://"),
        ("s3://bucket", "--output s3://bucket: name a prefix in the bucket"),
        ("urls.csv", "urls.csv is a file"),
        ("urls.csv/faces", "urls.csv is a file"),
        (".", "not empty and not a build's (urls.csv is there); name a new folder"),
    ],
)
def test_an_output_that_a_build_cannot_have_is_refused(
    capfd: pytest.CaptureFixture[str], output: str, message: str
) -> None:
    assert message in refused(capfd, "--input", "urls.parquet", "--output", output)


def test_the_output_of_another_build_is_refused_and_ones_own_is_not(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, models = resolve_models(load_settings())
    models |= read_lists(settings.screen).hashes
    store = Store(here / "mine")
    store.root.mkdir()
    request = BuildRequest("urls.parquet", store.root, settings)
    claim(store, prepare(request, settings, models, store)[1])
    before = store.read("build.json")
    arguments = ("--input", "urls.parquet", "--output", "mine")
    assert "Sound" in looked(capfd, *arguments)
    said = refused(capfd, *arguments, "--set", "crop.min_side=77")
    assert "was made with other settings: crop.min_side (was 128, is 77)" in said
    assert store.list(".") == ["build.json"] and store.read("build.json") == before


def test_a_cluster_is_not_asked(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("--input", "urls.parquet", "--output", "deep/er/out", "--limit", "10")
    said = looked(capfd, *arguments, *SPARK)
    assert said.startswith("10 rows in 10 shards for spark, spark://host:7077\n")
    flink = ("--runner", "flink", "--flink-master", "flink:8081")
    assert "for flink, flink:8081\n" in looked(capfd, *arguments, *flink)


def test_a_list_that_only_this_machine_has_is_refused_to_workers_elsewhere(
    bucket: None, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--input", "urls.parquet", "--output", "s3://bucket/faces")
    said = refused(capfd, *arguments, *SPARK)
    assert f"{here / 'urls.parquet'}: is on this machine, and the workers are on others" in said
    assert said.endswith("copy it to where s3://bucket/faces is, and name it there")
    assert "Sound" in looked(capfd, *arguments), "workers on this machine see it"
    # A build stages a text list in the bucket, where all can read it.
    assert "Sound" in looked(capfd, "--input", "urls.csv", *arguments[2:], *SPARK)


@pytest.mark.parametrize(
    ("engine", "where", "processes"),
    [
        (("--workers", "3"), "local (this machine)", 3),
        (("--runner", "spark", "--spark-master", "local[3]"), "spark (local[3])", 3),
        ((*SPARK, "--workers", "5"), "spark (spark://host:7077)", 5),
        (("--runner", "prism"), "prism (this machine)", 1),
    ],
)
def test_the_plan_counts_the_processes_that_would_start(
    capfd: pytest.CaptureFixture[str], engine: tuple[str, ...], where: str, processes: int
) -> None:
    said = looked(capfd, "--input", "urls.csv", "--output", "out", *engine, command="launch")
    assert said.startswith(f"Would start on {where}; nothing is started now.\n")
    assert re.search(rf"^  input +{ROWS} rows$", said, re.MULTILINE)
    assert re.search(rf"^  workers +{processes} processes", said, re.MULTILINE)
    assert "core-hours" in said
